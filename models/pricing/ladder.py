"""The prices that can be asked for: a ladder around today's price of each offer."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from models.pricing.offers import Offers
from models.pricing.panel import Floats
from models.pricing.rules import Ladder, Rules

WIDEST = 0.5
"""Ladders reach so far around today's price where no rule limits the change."""
TOLERANCE = 1e-9
DIGITS = 6


def ladders(offers: Offers, rules: Rules, *, wide: bool = False, held: Collection[int] = ()) -> list[Floats]:
    """The rising points of each offer; today's price is always among them, others have an ending of the ladder.

    They stay within the prices at which an offer was sold, beyond which demand models only guess. With `wide` they go
    beyond these and the largest change and reach the margin floors: for finding out which rules conflict.
    Offers of one product in one zone have the same points. `held` offers have today's price only, unless they are in a
    zone with others or the ladders are wide.
    """
    kept = frozenset() if wide else frozenset(held)
    points = [
        offers.price[[index]].round(DIGITS) if index in kept else _points(offers, index, rules, wide=wide)
        for index in range(len(offers))
    ]
    for zone in rules.zones:
        by_product: dict[str, list[int]] = {}
        for index in zone.offers(offers):
            if offers.stores[index] in zone.stores:
                by_product.setdefault(offers.products[index], []).append(index)
        for members in by_product.values():
            together = np.unique(np.concatenate([points[index] for index in members]))
            for index in members:
                points[index] = together
    return points


def allowed_change(offers: Offers, index: int, rules: Rules) -> tuple[float, float]:
    """The lowest and highest price that the rules about the largest change allow."""
    shares = [rule.share for rule in rules.largest_change if rule.only.fits(offers, index)]
    share = min(shares, default=WIDEST)
    return offers.price[index] * (1 - share), offers.price[index] * (1 + share)


def _within_seen(offers: Offers, index: int, low: float, high: float) -> tuple[float, float]:
    """The part of a range in which the offer was sold, at today's price too."""
    if offers.seen is None or np.isnan(offers.seen[index]).any():
        return low, high
    today, (lowest, highest) = float(offers.price[index]), offers.seen[index].tolist()
    return max(low, min(lowest, today)), min(high, max(highest, today))


def _points(offers: Offers, index: int, rules: Rules, *, wide: bool) -> Floats:
    today = float(offers.price[index])
    low, high = allowed_change(offers, index, rules)
    if not wide:
        low, high = _within_seen(offers, index, low, high)
    limit = rules.ladder.most_points
    found = _between(rules.ladder, low, high, limit - 1)
    if wide:
        found = [*found, *_between(rules.ladder, today * (1 - WIDEST), today * (1 + WIDEST), limit)]
        for rule in rules.margin_floor:
            if rule.only.fits(offers, index) and np.isfinite(offers.cost[index]):
                floor = offers.cost[index] / (1 - rule.share)
                found += _between(rules.ladder, floor, floor * 1.1 + _spacing(rules.ladder), 1)
    rounded = np.unique(np.round([*found, today], DIGITS))
    return rounded[rounded > 0]


def _spacing(ladder: Ladder) -> float:
    return ladder.step if ladder.step is not None else 1.0


def _between(ladder: Ladder, low: float, high: float, limit: int) -> list[float]:
    """At most `limit` prices of the ladder in a range, rising: evenly spaced, with the lowest and the highest."""
    if ladder.step is not None:
        first, last = math.ceil(low / ladder.step - TOLERANCE), math.floor(high / ladder.step + TOLERANCE)
        return [number * ladder.step for number in _even(max(1, first), last, limit)]
    assert ladder.endings is not None
    endings = sorted(set(ladder.endings))

    def price(number: int) -> float:
        whole, place = divmod(number, len(endings))
        return whole + endings[place]

    first, last = math.floor(low) * len(endings), (math.floor(high) + 1) * len(endings) - 1
    while first <= last and (price(first) < low - TOLERANCE or price(first) <= 0):
        first += 1
    while first <= last and price(last) > high + TOLERANCE:
        last -= 1
    return [price(number) for number in _even(first, last, limit)]


def _even(first: int, last: int, limit: int) -> list[int]:
    """At most `limit` whole numbers from first to last, none where last is below first; a ladder may have millions."""
    count = last - first + 1
    if count <= limit:
        return list(range(first, last + 1))
    return [first + int(place) for place in np.unique(np.round(np.linspace(0, count - 1, limit)).astype(np.int64))]
