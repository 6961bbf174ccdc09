"""Why an offer gets its price, in words: its demand, a rule that holds or moves it, or that it is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.pricing.bands import Band
from models.pricing.blocks import Demand, blocks_of, money
from models.pricing.constraints import Requirement
from models.pricing.keeping import breaks_rows, concerned, shortfall
from models.pricing.offers import Offers
from models.pricing.optimise import Plan
from models.pricing.panel import Floats, Ints

UNIT_ELASTICITY = -1.0


@dataclass(frozen=True)
class Reasons:
    """The reasons for the prices of a plan."""

    offers: Offers
    demand: Demand
    plan: Plan
    held: Mapping[int, str]

    def of(self, index: int, elasticity: Band) -> str:
        """Why an offer has its price in the plan; `elasticity` is that at today's price."""
        if index in self.held:
            return f"unchanged: {self.held[index]}"
        at, today, best = int(self._chosen[index]), int(self._today[index]), self._best[index]
        if at == today:
            rule = None if best == at else self._broken_by(index, best)
            held = "" if rule is None else f"; {self._price(index, best)} would earn more, but {_cited(rule)} holds it"
            return f"unchanged: today's price earns most of those that it may have{held}"
        word = "raised" if at > today else "lowered"
        if best == at:
            return f"{word}: {self._by_demand(index, elasticity, is_raised=at > today)}"
        if rule := self._broken_by(index, today):
            return f"{word}: {_cited(rule)} asks for it: {rule.words}"
        if rule := self._broken_by(index, best):
            return f"{word}: {self._price(index, best)} would earn more, but {_cited(rule)} holds it"
        return f"{word}: it earns most together with the other prices of the plan"

    def _by_demand(self, index: int, elasticity: Band, *, is_raised: bool) -> str:
        price, cost = float(self.offers.price[index]), float(self.offers.cost[index])
        margin = (price - cost) / price
        told = f"elasticity {elasticity.mean:.1f} ({elasticity.low:.1f} to {elasticity.high:.1f})"
        if elasticity.mean >= UNIT_ELASTICITY:
            if is_raised:
                return f"demand is inelastic: {told}"
            return f"what its rivals' demand loses at a higher price outweighs it: {told}"
        wanted = -1 / elasticity.mean
        if is_raised == (margin < wanted):
            compared = "below" if is_raised else "above"
            demand = "less" if is_raised else "more"
            return (
                f"demand is {demand} elastic than its margin needs: with {told} a margin of {wanted:.0%} earns most "
                f"by itself, and {margin:.0%} is {compared} it"
            )
        return (
            f"its demand group earns most there by the models' whole curves, though {told} and a margin of "
            f"{margin:.0%} speak against it"
        )

    def _broken_by(self, index: int, point: int) -> Requirement | None:
        """The first requirement that would be broken if only this price were at another point."""
        points = self._chosen.copy()
        points[index] = point
        for one in self._about.get(index, []):
            if breaks_rows(one, points):
                return one
        floors = [one for one in self.plan.requirements if one.floor is not None]
        if not floors:
            return None
        price = np.array([one[at] for one, at in zip(self.plan.points, points, strict=True)])
        expected = money(self.demand, self.offers, price)
        return next((one for one in floors if shortfall(one, expected)), None)

    def _price(self, index: int, point: int) -> str:
        return f"{self.plan.points[index][point]:.2f}"

    @cached_property
    def _about(self) -> dict[int, list[Requirement]]:
        """The requirements about each offer."""
        found: dict[int, list[Requirement]] = {}
        for one in self.plan.requirements:
            for index in concerned(one):
                found.setdefault(index, []).append(one)
        return found

    @cached_property
    def _chosen(self) -> Ints:
        return self._points(self.plan.price)

    @cached_property
    def _today(self) -> Ints:
        return self._points(self.offers.price)

    def _points(self, price: Floats) -> Ints:
        pairs = zip(self.plan.points, price, strict=True)
        return np.array([np.abs(one - at).argmin() for one, at in pairs], np.int64)

    @cached_property
    def _best(self) -> dict[int, int]:
        """The point of each offer that earns most with all other prices as planned; the plan's where none is better."""
        blocks, _ = blocks_of(self.demand, self.offers, self.plan.points, self.plan.price, max_combinations=0)
        found = {}
        for block in blocks:
            index, profit = int(block.offers[0]), block.profit.mean(0)
            at = int(self._chosen[index])
            is_better = profit.max() > profit[at] + 1e-9 * abs(profit[at])
            found[index] = int(profit.argmax()) if is_better else at
        return found


def _cited(rule: Requirement) -> str:
    return f"the rule {rule.kind} ({rule.source})"
