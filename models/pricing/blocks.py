"""Profit, revenue and units as sums over blocks of offers: what makes pricing a linear program over choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from models.pricing.offers import Offers
from models.pricing.panel import Floats, Ints

SCENARIOS = 512
"""So many price lists are put to the demand model at once."""


class Demand(Protocol):
    """Expected demand at any prices: an ensemble of one or more members."""

    def units(self, prices: Floats) -> Floats:
        """Units a period [S, M, I] of S members for M price lists [M, I].

        An offer's demand may depend on the prices of its own demand group only.
        """
        ...


@dataclass(frozen=True)
class Block:
    """Offers that are chosen for together: M choices, each a point of the ladder for every one of its n offers.

    `profit` [S, M], `revenue` [M, A] and `units` [M, A] are of the offers `affected`; each is added up over blocks.
    """

    offers: Ints
    choices: Ints
    affected: Ints
    profit: Floats
    revenue: Floats
    units: Floats


@dataclass(frozen=True)
class Money:
    """What prices bring in one period: profit [S] by member of the demand, mean revenue [I] and units [I].

    From `by_offer` each is [S, I].
    """

    profit: Floats
    revenue: Floats
    units: Floats


def money(demand: Demand, offers: Offers, prices: Floats) -> Money:
    """Profit, revenue and units of one price list under the joint demand, without any approximation."""
    by_member = by_offer(demand, offers, prices)
    return Money(by_member.profit.sum(-1), by_member.revenue.mean(0), by_member.units.mean(0))


def by_offer(demand: Demand, offers: Offers, prices: Floats) -> Money:
    """Profit, revenue and units of one price list, each [S, I] by member of the demand and by offer."""
    units = demand.units(prices[None])[:, 0]
    sold = np.minimum(units, offers.stock)
    return Money(offers.margin(prices) * sold, prices * sold, units)


def blocks_of(
    demand: Demand, offers: Offers, points: Sequence[Floats], anchor: Floats, *, max_combinations: int
) -> tuple[list[Block], bool]:
    """The blocks of all demand groups, and whether their sum is exact.

    A group with at most `max_combinations` price combinations is one block that lists them all: exact for any demand.
    In a larger group each offer is a block of its own, with what the group gains when only its price differs from
    `anchor`: own and cross effects are exact for one change, and added up for several.
    """
    groups = [np.flatnonzero(offers.group == group) for group in np.unique(offers.group)]
    listed: list[tuple[Ints, Ints, Ints]] = []
    is_whole: list[bool] = []
    for members in groups:
        counts = [len(points[index]) for index in members.tolist()]
        if len(members) == 1 or math.prod(counts) <= max_combinations:
            choices = np.array(list(product(*(range(count) for count in counts))), np.int64)
            listed.append((members, members, choices))
            is_whole.append(True)
        else:
            for index, count in zip(members, counts, strict=True):
                listed.append((np.array([index]), members, np.arange(count)[:, None]))
                is_whole.append(False)
    units = _all_units(demand, points, anchor, listed)
    base = demand.units(anchor[None])[:, 0]
    made = [
        _block(offers, points, anchor, one, units=each, base=None if whole else base)
        for one, each, whole in zip(listed, units, is_whole, strict=True)
    ]
    return made, all(is_whole)


def _block(
    offers: Offers,
    points: Sequence[Floats],
    anchor: Floats,
    listed: tuple[Ints, Ints, Ints],
    *,
    units: Floats,
    base: Floats | None,
) -> Block:
    """A block from units [S, M, A]; with `base` [S, I] the others' values count as differences from the anchor."""
    chosen, affected, choices = listed
    prices = np.tile(anchor[affected], (len(choices), 1))
    for column, index in enumerate(chosen.tolist()):
        prices[:, affected.tolist().index(index)] = points[index][choices[:, column]]
    sold = np.minimum(units, offers.stock[affected])
    profit, revenue = np.nan_to_num(prices - offers.cost[affected]) * sold, prices * sold
    if base is not None:
        others = affected != chosen[0]
        still = np.minimum(base, offers.stock)[:, None, affected] * others
        profit = profit - offers.margin(anchor)[affected] * still
        revenue = revenue - anchor[affected] * still
        units = units - base[:, None, affected] * others
    return Block(chosen, choices, affected, profit.sum(-1), revenue.mean(0), units.mean(0))


def _all_units(
    demand: Demand, points: Sequence[Floats], anchor: Floats, listed: Sequence[tuple[Ints, Ints, Ints]]
) -> list[Floats]:
    """Units [S, M, A] of each block; groups do not influence each other, so that one price list serves all groups."""
    starts, used = [], dict[int, int]()
    for _, affected, choices in listed:
        key = int(affected[0])
        starts.append(used.get(key, 0))
        used[key] = starts[-1] + len(choices)
    prices = np.tile(anchor, (max(used.values()), 1))
    for start, (chosen, _, choices) in zip(starts, listed, strict=True):
        for column, index in enumerate(chosen.tolist()):
            prices[start : start + len(choices), index] = points[index][choices[:, column]]
    parts = np.array_split(prices, -(-len(prices) // SCENARIOS))
    units = np.concatenate([demand.units(part) for part in parts], axis=1)
    return [
        units[:, start : start + len(choices)][:, :, affected]
        for start, (_, affected, choices) in zip(starts, listed, strict=True)
    ]
