"""Sums the rows of sales to the cells of a panel, without returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.raw.panel_rows import NUMBERS

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """The cells of a panel of S series and T periods, all [S, T]."""

    units: npt.NDArray[np.float32]
    has_row: Bools
    is_censored: Bools
    values: dict[str, npt.NDArray[np.float32]]


def without_returns(
    cell: Int64s, units: Floats, returns: Literal["cancel", "net"], card: dict[str, Any]
) -> npt.NDArray[np.int64]:
    """Indices of the rows to sum, in order; `cell` is the place of each row in the panel.

    A return that cancels an order takes that order with it, see PanelSettings.returns.
    """
    is_return = units < 0
    card["returns"] = int(is_return.sum())
    if returns == "net" or not is_return.any():
        return np.arange(len(units))
    frame = pd.DataFrame({"cell": cell, "size": np.abs(units), "is_return": is_return})
    num_returned = frame[is_return].groupby(["cell", "size"]).size().rename("returned").reset_index()
    orders = frame[~is_return].reset_index().merge(num_returned, on=["cell", "size"], how="inner")
    orders = orders.sort_values("index", kind="stable")
    number = orders.groupby(["cell", "size"]).cumcount()
    cancelled = orders["index"].to_numpy()[(number < orders["returned"]).to_numpy()]
    card["cancelled_orders"] = len(cancelled)
    keep = ~is_return
    keep[cancelled] = False
    return np.flatnonzero(keep)


def sum_cells(
    series: Int64s, place: Int64s, numbers: Mapping[str, Floats], *, shape: tuple[int, int], columns: Collection[str]
) -> Cells:
    """The cells of rows in an order that does not depend on files; `numbers` are of each row, NaN where missing."""
    cell = series * shape[1] + place
    size = shape[0] * shape[1]
    units, price = numbers["units"], numbers["price"]
    total = np.maximum(np.bincount(cell, units, size), 0)
    values: dict[str, Floats] = {}
    revenue = np.where(np.isnan(numbers["revenue"]), price * units, numbers["revenue"])
    is_priced = np.isfinite(revenue) & (units > 0)
    if is_priced.any():
        values["revenue"] = _sums(cell[is_priced], revenue[is_priced], size)
        sold = _sums(cell[is_priced], units[is_priced], size)
        values["price"] = values["revenue"] / sold
    if "price" in columns:  # of a period without sales it may be known too
        shown = _last(cell, price, size)
        values["price"] = np.where(np.isnan(values.get("price", shown)), shown, values.get("price", shown))
    if "stock" in columns:
        values["stock"] = _last(cell, numbers["stock"], size)
    if "promotion" in columns:
        values["promotion"] = _largest(cell, numbers["promotion"], size)
    for name in sorted(numbers.keys() & set(columns) - set(NUMBERS)):
        is_known = np.isfinite(numbers[name])
        count = np.maximum(np.bincount(cell[is_known], minlength=size), 1)
        values[name] = _sums(cell[is_known], numbers[name][is_known], size) / count
    is_out = np.zeros(size, np.bool_)
    if "stock" in columns:
        is_out |= np.nan_to_num(values["stock"], nan=1.0) <= 0
    if "stock_out" in columns:
        is_out |= np.nan_to_num(_largest(cell, numbers["stock_out"], size)) > 0
    return Cells(
        units=total.astype(np.float32).reshape(shape),
        has_row=(np.bincount(cell, minlength=size) > 0).reshape(shape),
        is_censored=is_out.reshape(shape),
        values={name: value.astype(np.float32).reshape(shape) for name, value in values.items()},
    )


def _sums(cell: Int64s, values: Floats, size: int) -> Floats:
    """Sums of each cell, NaN for one without rows."""
    sums = np.asarray(np.bincount(cell, values, size), np.float64)
    sums[np.bincount(cell, minlength=size) == 0] = np.nan
    return sums


def _last(cell: Int64s, values: Floats, size: int) -> Floats:
    """The value of the last row of each cell that has one."""
    found = np.full(size, np.nan)
    known = np.isfinite(values)
    found[cell[known]] = values[known]
    return found


def _largest(cell: Int64s, values: Floats, size: int) -> Floats:
    found: Floats = np.full(size, -np.inf)
    known = np.isfinite(values)
    np.maximum.at(found, cell[known], values[known])
    found[~np.isfinite(found)] = np.nan
    return found
