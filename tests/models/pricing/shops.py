"""Offers and demand with known answers for the tests of prices."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from models.pricing.constraints import Calendar, Requirement
from models.pricing.offers import Offers
from models.pricing.panel import Floats


@dataclass(frozen=True)
class LogLogDemand:
    """Units = base * product of (price / today) ** elasticity, with the members of an ensemble [S]."""

    base: Floats
    today: Floats
    elasticity: Floats
    """[S, I, I]: of the units of the first offer in the price of the second."""

    def units(self, prices: Floats) -> Floats:
        result: Floats = self.base * np.exp(np.einsum("sij,mj->smi", self.elasticity, np.log(prices / self.today)))
        return result


def random_shop(seed: int, num_offers: int, *, group_size: int, members: int = 1) -> tuple[Offers, LogLogDemand]:
    """Offers of two brands and sizes in groups, with elasticities of -1.5 to -4 and substitutes inside a group."""
    draw = np.random.default_rng(seed)
    index = np.arange(num_offers)
    is_own = index % 4 < 2
    price: Floats = np.round(draw.uniform(2, 4, num_offers) + np.where(is_own, 0.0, 1.5), 1)
    group = index // group_size
    same_group = (group[:, None] == group[None]) & ~np.eye(num_offers, dtype=bool)
    slopes = -draw.uniform(1.5, 4, (members, num_offers, 1)) * np.eye(num_offers)
    cross = draw.uniform(0, 0.6, (members, num_offers, num_offers)) * same_group
    offers = Offers(
        products=tuple(f"p{number}" for number in index),
        stores=("",) * num_offers,
        price=price,
        cost=np.round(price * draw.uniform(0.5, 0.8, num_offers), 2),
        stock=np.full(num_offers, np.inf),
        size=np.where(index % 2 == 0, 1.0, 2.0),
        group=group,
        categories=tuple(f"c{number // 4}" for number in index),
        brands=tuple("Own" if own else "Best" for own in is_own),
    )
    return offers, LogLogDemand(draw.uniform(20, 200, num_offers), price, slopes + cross)


def brute_force(
    offers: Offers, demand: LogLogDemand, points: list[Floats], requirements: list[Requirement]
) -> tuple[float, Floats | None]:
    """The highest profit under the joint demand of all combinations of points that keep all requirements."""
    best: tuple[float, Floats | None] = (-np.inf, None)
    for choice in product(*(range(len(one)) for one in points)):
        price = np.array([one[at] for one, at in zip(points, choice, strict=True)])
        units = demand.units(price[None])[:, 0]
        values: dict[str, Any] = {"revenue": (price * units).mean(0), "units": units.mean(0)}
        if all(_keeps(requirement, choice, values) for requirement in requirements):
            profit = float(((price - offers.cost) * units).sum(-1).mean())
            best = max(best, (profit, price), key=lambda pair: pair[0])
    return best


def _keeps(requirement: Requirement, choice: tuple[int, ...], values: dict[str, Any]) -> bool:
    sums = [
        (sum(weight for (offer, point), weight in weights.items() if choice[offer] == point), low, high)
        for weights, low, high in requirement.rows
    ]
    floor = requirement.floor
    enough = floor is None or values[floor.of][floor.offers].sum() >= floor.asked * (1 - 1e-9)
    return enough and all(low - 1e-6 <= total <= high + 1e-6 for total, low, high in sums)


def calendar() -> Calendar:
    """Weeks from a fixed day."""
    return Calendar(datetime.date(2026, 11, 2))
