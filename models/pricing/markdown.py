"""Markdowns: falling prices over several periods that bring in most and sell the stock by the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from models.pricing.panel import Floats, Ints

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Markdown:
    """The price and the units sold of each period [T]; `proceeds` are revenue plus the value of what is left."""

    price: Floats
    sold: Floats
    left: float
    proceeds: float
    is_optimal: bool


class StockTooLarge(ValueError):
    """Even the lowest prices do not sell the share that is asked for."""


def plan_markdown(
    points: Floats,
    units: Floats,
    *,
    stock: float,
    share: float = 0.0,
    value_left: float = 0.0,
    time_limit_s: float = 5.0,
) -> Markdown:
    """The falling path over a ladder [K], rising, with the highest proceeds.

    `units` [T, K] are expected at each point in each period. At least `share` of the stock is sold, never more than
    the stock; what is left is worth `value_left` a unit, which may be negative. Raises StockTooLarge if the share
    cannot be reached. Columns of the program are the choice and the units sold for each period and point, so that
    a period sells nothing at points that were not chosen.
    """
    _check(points, units, stock=stock, share=share)
    num_periods, num_points = units.shape
    size = num_periods * num_points
    worth = np.concatenate([np.zeros(size), np.tile(points - value_left, num_periods)])
    answer = milp(
        -worth,
        integrality=np.repeat(np.array([1, 0]), size),
        bounds=Bounds(0, np.concatenate([np.ones(size), units.ravel()])),
        constraints=_constraints(points, units, stock=stock, share=share),
        options={"time_limit": time_limit_s, "mip_rel_gap": TOLERANCE},
    )
    if answer.x is None:
        raise StockTooLarge(
            f"no falling prices were found in {time_limit_s:g} s that sell {share:.0%} of {stock:g} in {num_periods} "
            "periods; lower the share or allow more time"
        )
    chosen = answer.x[:size].reshape(units.shape).argmax(1)
    return _markdown(points, chosen, answer.x[size:].reshape(units.shape), stock, value_left, answer.status == 0)


def _check(points: Floats, units: Floats, *, stock: float, share: float) -> None:
    num_periods, num_points = units.shape
    if len(points) != num_points or (np.diff(points) <= 0).any() or (points <= 0).any():
        raise ValueError(f"the ladder needs {num_points} rising prices above zero, one for each column of the units")
    if not 0 <= share <= 1 or stock <= 0:
        raise ValueError(f"the stock is {stock:g} and the share {share:g}; they must be above 0 and between 0 and 1")
    most = min(stock, float(units.max(1).sum()))
    if most < share * stock * (1 - TOLERANCE):
        raise StockTooLarge(
            f"at the best selling prices {most:.1f} of {stock:g} are sold in {num_periods} periods, not {share:.0%}; "
            "lower the share, start earlier or add lower prices"
        )


def _markdown(
    points: Floats, chosen: Ints, sold_at: Floats, stock: float, value_left: float, is_optimal: bool
) -> Markdown:
    price, sold = points[chosen], sold_at.sum(1)
    left = stock - float(sold.sum())
    return Markdown(price, sold, left, float(price @ sold) + value_left * left, is_optimal)


def _constraints(points: Floats, units: Floats, *, stock: float, share: float) -> list[LinearConstraint]:
    num_periods, num_points = units.shape
    size = num_periods * num_points
    every, none = sp.identity(size), sp.csr_matrix((num_periods, size))
    by_period = sp.kron(sp.identity(num_periods), np.ones((1, num_points)))
    by_price = sp.kron(sp.identity(num_periods), points[None])
    fall = sp.csr_matrix(np.eye(num_periods)[:-1] - np.eye(num_periods)[1:])
    found = [
        LinearConstraint(sp.hstack([by_period, none]), 1, 1),
        LinearConstraint(sp.hstack([-sp.diags(units.ravel()), every]), -np.inf, 0),
        LinearConstraint(np.concatenate([np.zeros(size), np.ones(size)])[None], share * stock, stock),
    ]
    if num_periods > 1:
        found.append(LinearConstraint(sp.hstack([fall @ by_price, none[1:]]), -TOLERANCE, np.inf))
    return found
