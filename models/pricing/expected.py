"""What is expected at any prices, without choosing them: `whatif` of a list of prices, `explain` of one offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.bands import Band, band, bands
from models.pricing.blocks import Money, by_offer
from models.pricing.claims import Claim
from models.pricing.crossfit import cross_fit
from models.pricing.demand import FittedDemand, elasticities
from models.pricing.design import Design
from models.pricing.fitted import Fitted
from models.pricing.offers import Offers, changes
from models.pricing.panel import Floats
from models.pricing.trust import Flag

NUM_RIVALS = 3
RISE = 0.1
"""Effects on rivals are those of a price that is so much higher."""


@dataclass(frozen=True)
class Expected:
    """What is expected of an offer a period, by all members of the demand."""

    units: Band
    revenue: Band
    profit: Band


def expected_of(by_member: Money) -> list[Expected]:
    """The expectation of each offer, from values [S, I] by member."""
    values = (bands(by_member.units), bands(by_member.revenue), bands(by_member.profit))
    return [Expected(*each) for each in zip(*values, strict=True)]


@dataclass(frozen=True)
class WhatIf:
    """Given prices against today's, by offer [I] and in all, a period; `claim` is None where no price differs.

    `profit_change` is that of all offers. The claim is what the models of both halves of the weeks expect, and
    re-estimated by the evaluators of the other half.
    """

    today: tuple[Expected, ...]
    planned: tuple[Expected, ...]
    profit_today: Band
    profit_change: Band
    claim: Claim | None


def whatif(offers: Offers, state: Design, fitted: Fitted, prices: Floats) -> WhatIf:
    """Units, revenue and profit at prices [I] against those at today's; raises ValueError for impossible prices."""
    if prices.shape != offers.price.shape:
        raise ValueError(f"there are {len(prices)} prices for {len(offers)} offers; give one for each")
    wrong = np.flatnonzero(~(np.isfinite(prices) & (prices > 0)))
    if len(wrong):
        raise ValueError(f"the price of {offers.name(int(wrong[0]))} is {prices[wrong[0]]:g}; it must be above zero")
    before, after = (by_offer(fitted.demand.at(state), offers, one) for one in (offers.price, prices))
    changed = changes(offers, prices)
    claim = (
        cross_fit((prices, prices), offers, state, fitted).claim(np.ones(len(offers), bool)) if changed.any() else None
    )
    return WhatIf(
        today=tuple(expected_of(before)),
        planned=tuple(expected_of(after)),
        profit_today=band(before.profit.sum(-1)),
        profit_change=band((after.profit - before.profit).sum(-1)),
        claim=claim,
    )


@dataclass(frozen=True)
class Rival:
    """How a rival's units change, relatively, when the price of the offer is RISE higher."""

    product: str
    store: str
    change: Band


@dataclass(frozen=True)
class Explanation:
    """An offer over prices [K], all other prices as today; `rivals` are those whose units change most."""

    product: str
    store: str
    price: float
    usual_price: float
    elasticity: Band
    prices: tuple[float, ...]
    curve: tuple[Expected, ...]
    rivals: tuple[Rival, ...]
    flags: tuple[Flag, ...]


def explain(
    offers: Offers, state: Design, fitted: Fitted, index: int, *, prices: Floats, flags: Sequence[Flag]
) -> Explanation:
    """What is expected of the offer at place `index` at each of the prices [K], such as the points of its ladder."""
    demand = fitted.demand.at(state)
    lists = np.tile(offers.price, (len(prices), 1))
    lists[:, index] = prices
    units = demand.units(lists)[:, :, index]
    sold = np.minimum(units, offers.stock[index])
    margin = np.nan_to_num(prices - offers.cost[index])
    return Explanation(
        product=offers.products[index],
        store=offers.stores[index],
        price=float(offers.price[index]),
        usual_price=float(np.exp(state.usual[index])),
        elasticity=band(elasticities(demand, offers.price)[:, index]),
        prices=tuple(prices.tolist()),
        curve=tuple(expected_of(Money(margin * sold, prices * sold, units))),
        rivals=_rivals(offers, demand, index),
        flags=tuple(flags),
    )


def _rivals(offers: Offers, demand: FittedDemand, index: int) -> tuple[Rival, ...]:
    dearer = offers.price.copy()
    dearer[index] *= 1 + RISE
    before, after = demand.units(np.stack([offers.price, dearer])).transpose(1, 0, 2)
    change = after / np.maximum(before, 1e-12) - 1
    others = [at for at in np.flatnonzero(offers.group == offers.group[index]).tolist() if at != index]
    strongest = sorted(others, key=lambda at: -abs(float(change[:, at].mean())))[:NUM_RIVALS]
    return tuple(Rival(offers.products[at], offers.stores[at], band(change[:, at])) for at in strongest)
