"""Rules as linear constraints on which point of its ladder each offer takes, named for each rule and offer."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from models.pricing.offers import Offers
from models.pricing.panel import Floats, Ints
from models.pricing.rules import (
    BrandOrder,
    Fixed,
    LargestChange,
    MarginFloor,
    MaxChanges,
    MeanPrice,
    Revenue,
    Rules,
    SellThrough,
    SizeOrder,
    Zone,
)

if TYPE_CHECKING:
    from models.pricing.rules import _Rule

TOLERANCE = 1e-7
HELD = "held"
NONE_HELD: Mapping[int, str] = {}
Row = tuple[Mapping[tuple[int, int], float], float, float]
"""Weights of (offer, point), and the bounds of their sum."""


@dataclass(frozen=True)
class Calendar:
    """The day from which the prices hold, and how long the periods of the demand are."""

    today: datetime.date
    days_a_period: float = 7.0

    def periods_until(self, day: datetime.date) -> float:
        """Periods from today to the end of a day."""
        return max(0.0, ((day - self.today).days + 1) / self.days_a_period)


@dataclass(frozen=True)
class Floor:
    """At least `asked` of the summed revenue or units of offers, which depend on demand.

    `extra` is asked of the program on top, where it only approximates the demand.
    """

    of: Literal["revenue", "units"]
    offers: Ints
    asked: float
    extra: float = 0.0

    @property
    def amount(self) -> float:
        """What the program is asked for."""
        return self.asked + self.extra


@dataclass(frozen=True)
class Requirement:
    """What one rule asks of one offer, one pair, or all: rows on the points, or a floor.

    `kind` is that of the rule, or "held" for an offer that is kept at today's price whatever the rules say.
    """

    source: str
    kind: str
    words: str
    rows: tuple[Row, ...] = ()
    floor: Floor | None = None

    def text(self) -> str:
        """The requirement with the place of its rule."""
        return f"{self.kind} ({self.source}): {self.words}"


@dataclass(frozen=True)
class Shop:
    """What rules are turned into constraints with: offers, their ladders, today's revenue, the calendar."""

    offers: Offers
    points: Sequence[Floats]
    revenue_today: Floats
    calendar: Calendar

    def today(self, index: int) -> int:
        """The point of an offer that is today's price."""
        return int(np.argmin(np.abs(self.points[index] - self.offers.price[index])))

    @property
    def today_points(self) -> Ints:
        """The point [I] of each offer that is today's price."""
        return np.array([self.today(index) for index in range(len(self.offers))], np.int64)

    def price(self, index: int, weight: float = 1.0) -> dict[tuple[int, int], float]:
        """The price of an offer as a weighted sum over its points."""
        return {(index, point): weight * float(value) for point, value in enumerate(self.points[index])}

    def none_outside(self, index: int, low: float, high: float) -> tuple[Row, ...]:
        """Forbids the points below and above; none of them may be taken."""
        outside = (self.points[index] < low - TOLERANCE) | (self.points[index] > high + TOLERANCE)
        return (({(index, int(at)): 1.0 for at in np.flatnonzero(outside)}, -np.inf, 0.0),)


def requirements_of(rules: Rules, shop: Shop, held: Mapping[int, str] = NONE_HELD) -> list[Requirement]:
    """Everything that the rules ask for, in the order of the kinds, and that `held` offers stay, for what reason."""
    asked = [
        Requirement(f"{rules.source}:{rule.line}", kind, words, rows, floor)
        for kind, rule in rules.kinds()
        for words, rows, floor in _of_rule(rule, shop)
    ]
    return asked + [
        Requirement("whatever the rules say", HELD, f"{words}, since {held[index]}", rows)
        for index in sorted(held)
        for words, rows in [_stays(shop, index)]
    ]


Parts = Iterator[tuple[str, tuple[Row, ...], Floor | None]]


def _of_rule(rule: _Rule, shop: Shop) -> Parts:
    match rule:
        case MarginFloor():
            return _margin_floor(rule, shop)
        case LargestChange():
            return _largest_change(rule, shop)
        case MaxChanges():
            return _max_changes(rule, shop)
        case Fixed():
            return _fixed(rule, shop)
        case Zone():
            return _zone(rule, shop)
        case SizeOrder():
            return _size_order(rule, shop)
        case BrandOrder():
            return _brand_order(rule, shop)
        case MeanPrice():
            return _mean_price(rule, shop)
        case Revenue():
            return _revenue(rule, shop)
        case SellThrough():
            return _sell_through(rule, shop)
    raise AssertionError(f"a rule without constraints: {rule!r}")


def _margin_floor(rule: MarginFloor, shop: Shop) -> Parts:
    for index in rule.offers(shop.offers):
        if np.isnan(shop.offers.cost[index]):
            continue
        lowest = float(shop.offers.cost[index]) / (1 - rule.share)
        rows = shop.none_outside(index, lowest, np.inf)
        yield f"{shop.offers.name(index)} costs at least {lowest:.2f}", rows, None


def _largest_change(rule: LargestChange, shop: Shop) -> Parts:
    for index in rule.offers(shop.offers):
        today = float(shop.offers.price[index])
        low, high = today * (1 - rule.share), today * (1 + rule.share)
        rows = shop.none_outside(index, low, high)
        yield f"{shop.offers.name(index)} costs {low:.2f} to {high:.2f}, today {today:.2f}", rows, None


def _max_changes(rule: MaxChanges, shop: Shop) -> Parts:
    changed = {
        (index, point): 1.0
        for index in rule.offers(shop.offers)
        for point in range(len(shop.points[index]))
        if point != shop.today(index)
    }
    yield f"at most {rule.number} prices change", ((changed, -np.inf, rule.number),), None


def _fixed(rule: Fixed, shop: Shop) -> Parts:
    for index in rule.offers(shop.offers):
        yield *_stays(shop, index), None


def _stays(shop: Shop, index: int) -> tuple[str, tuple[Row, ...]]:
    today = float(shop.points[index][shop.today(index)])
    return f"{shop.offers.name(index)} stays at {today:.2f}", shop.none_outside(index, today, today)


def _zone(rule: Zone, shop: Shop) -> Parts:
    by_product: dict[str, list[int]] = {}
    for index in rule.offers(shop.offers):
        if shop.offers.stores[index] in rule.stores:
            by_product.setdefault(shop.offers.products[index], []).append(index)
    for name, members in by_product.items():
        rows: list[Row] = []
        for one, other in pairwise(members):
            assert np.array_equal(shop.points[one], shop.points[other])
            for point in range(len(shop.points[one])):
                rows.append(({(one, point): 1.0, (other, point): -1.0}, 0.0, 0.0))
        if rows:
            stores = ", ".join(shop.offers.stores[index] for index in members)
            yield f"product {name} has one price in the stores {stores}", tuple(rows), None


def _size_order(rule: SizeOrder, shop: Shop) -> Parts:
    offers, families = shop.offers, dict[tuple[str, str, str], list[int]]()
    for index in rule.offers(offers):
        if offers.brands[index] and np.isfinite(offers.size[index]):
            key = (offers.stores[index], offers.categories[index], offers.brands[index])
            families.setdefault(key, []).append(index)
    for members in families.values():
        for one, other in pairwise(sorted(members, key=lambda index: float(offers.size[index]))):
            ratio = float(offers.size[other] / offers.size[one])
            if ratio == 1:
                continue
            rows: list[Row] = [({**shop.price(other), **shop.price(one, -1.0)}, -TOLERANCE, np.inf)]
            if rule.unit_price:
                rows.append(({**shop.price(other), **shop.price(one, -ratio)}, -np.inf, TOLERANCE))
            per_unit = " and no more per unit" if rule.unit_price else ""
            yield f"{offers.name(other)} costs no less than {offers.name(one)}{per_unit}", tuple(rows), None


def _brand_order(rule: BrandOrder, shop: Shop) -> Parts:
    offers, places = shop.offers, dict[tuple[str, str, float], dict[str, list[int]]]()
    for index in rule.offers(offers):
        key = (offers.stores[index], offers.categories[index], float(offers.size[index]))
        places.setdefault(key, {}).setdefault(offers.brands[index], []).append(index)
    for brands in places.values():
        for cheap in brands.get(rule.cheaper, []):
            for dear in brands.get(rule.dearer, []):
                row = ({**shop.price(cheap), **shop.price(dear, -(1 - rule.gap))}, -np.inf, TOLERANCE)
                gap = f"{rule.gap:.0%} " if rule.gap else ""
                yield f"{offers.name(cheap)} costs {gap}less than {offers.name(dear)}, or as much", (row,), None


def _mean_price(rule: MeanPrice, shop: Shop) -> Parts:
    chosen = rule.offers(shop.offers)
    today = float(shop.offers.price[chosen].sum())
    weights: dict[tuple[int, int], float] = {}
    for index in chosen:
        weights |= shop.price(index)
    low = -np.inf if rule.at_least is None else rule.at_least * today - TOLERANCE
    high = np.inf if rule.at_most is None else rule.at_most * today + TOLERANCE
    bounds = [
        f"{word} {share:.1%}" for word, share in (("at least", rule.at_least), ("at most", rule.at_most)) if share
    ]
    yield f"the mean of {len(chosen)} prices is {' and '.join(bounds)} of today's", ((weights, low, high),), None


def _revenue(rule: Revenue, shop: Shop) -> Parts:
    chosen = np.array(rule.offers(shop.offers))
    amount = rule.at_least * float(shop.revenue_today[chosen].sum())
    words = f"the revenue of {len(chosen)} offers is at least {rule.at_least:.1%} of today's, {amount:.2f} a period"
    yield words, (), Floor("revenue", chosen, amount)


def _sell_through(rule: SellThrough, shop: Shop) -> Parts:
    periods = shop.calendar.periods_until(rule.by)
    for index in rule.offers(shop.offers):
        stock = float(shop.offers.stock[index])
        if not np.isfinite(stock) or not stock:
            continue
        words = f"{shop.offers.name(index)} sells {rule.share:.0%} of its stock of {stock:g} by {rule.by}"
        amount = rule.share * stock / periods if periods else np.inf
        asked = f"{amount:.1f} a period" if periods else f"and that date has passed on {shop.calendar.today}"
        yield f"{words}, {asked}", (), Floor("units", np.array([index]), amount)
