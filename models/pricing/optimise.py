"""Chooses prices from ladders for the highest expected profit under all rules, or says which rules conflict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.blocks import Block, Demand, Money, blocks_of, money
from models.pricing.conflict import irreducible
from models.pricing.constraints import Calendar, Requirement, Shop, requirements_of
from models.pricing.keeping import ROUNDING, broken, shortfall, unavoidable
from models.pricing.ladder import ladders
from models.pricing.offers import Offers
from models.pricing.panel import Floats, Ints
from models.pricing.program import Program, Solved
from models.pricing.rules import Rules

MAX_ROUNDS = 5
CONFLICT_TIMES = 2
"""Finding out which rules conflict takes at most so many times the time limit."""


@dataclass(frozen=True)
class Settings:
    """How prices are chosen."""

    time_limit_s: float = 10.0
    gap: float = 1e-4
    """Relative gap to the best bound at which the solver stops."""
    caution: float = 0.0
    """Standard deviations, over the demand's members, of each offer's change in profit that are taken off its mean."""
    max_combinations: int = 800
    """Demand groups with at most so many price combinations are priced exactly."""

    def __post_init__(self) -> None:
        for name in ("time_limit_s", "max_combinations"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; use more than 0")
        for name in ("gap", "caution"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}; use a number of 0 or more")


@dataclass(frozen=True)
class Plan:
    """New prices [I] and what the demand model expects of them, under its joint demand.

    `exact` says that the program knew the joint demand of every group. Else it added up the effects of single changes,
    and took the best of several rounds, each around the prices of the one before. `is_optimal` is about the program.
    `points` are the ladders, `requirements` what was asked for, `unavoidable` what today's prices of held offers break.
    """

    price: Floats
    today: Money
    planned: Money
    exact: bool
    is_optimal: bool
    gap: float
    rounds: int
    points: Sequence[Floats]
    requirements: Sequence[Requirement]
    unavoidable: Sequence[Requirement]

    @property
    def gain(self) -> Floats:
        """Relative gain of profit [S] by member of the demand."""
        return self.planned.profit / self.today.profit - 1


class RulesConflict(ValueError):
    """No prices keep all rules; `requirements` is an irreducible set of them, unless the time was up."""

    def __init__(self, requirements: Sequence[Requirement]) -> None:
        self.requirements = tuple(requirements)
        listed = "\n".join(f"- {requirement.text()}" for requirement in requirements)
        super().__init__(f"no prices keep all rules; these cannot hold together, loosen one of them:\n{listed}")


class NoPlanFound(ValueError):
    """The solver found no prices, though the rules were not shown to conflict."""


def optimise(
    offers: Offers,
    demand: Demand,
    rules: Rules,
    *,
    calendar: Calendar,
    settings: Settings | None = None,
    held: Mapping[int, str] | None = None,
) -> Plan:
    """The prices with the highest expected profit that keep all rules.

    `held` offers stay at today's price, for the reason that is given; what their prices break by themselves is not
    asked for but named in the plan. Where today's prices keep the rules, the plan is never worse than these. Raises
    ValueError where the demand is not a number, RulesConflict if no prices keep the rules, and NoPlanFound if the time
    limit ended the search without any.
    """
    _require_costs(offers, held or {})
    today = money(demand, offers, offers.price)
    _require_demand(offers, today)
    search = _Search(offers, demand, calendar, settings or Settings(), today, held or {})
    points = ladders(offers, rules, held=search.held)
    requirements = search.asked(rules, points)
    plan, is_infeasible = search.best(points, requirements)
    if is_infeasible:  # perhaps prices that are further away keep them
        points = ladders(offers, rules, wide=True)
        requirements = search.asked(rules, points)
        if conflict := search.conflict(points, requirements):
            raise RulesConflict(conflict)
        plan, _ = search.best(points, requirements)
    plan = search.or_unchanged(plan, points, requirements)
    if plan is None:
        limit_s = search.settings.time_limit_s
        raise NoPlanFound(
            f"no prices were found in {limit_s:g} s that keep all rules; allow more time, or loosen the floors of "
            "revenue and sell-through, which are only approximated in demand groups of many products"
        )
    return dataclasses.replace(plan, requirements=requirements, unavoidable=search.unavoidable(rules, points))


@dataclass(frozen=True)
class _Search:
    """What stays the same while prices are looked for."""

    offers: Offers
    demand: Demand
    calendar: Calendar
    settings: Settings
    today: Money
    held: Mapping[int, str]

    def asked(self, rules: Rules, points: Sequence[Floats]) -> list[Requirement]:
        """What is asked of a plan."""
        left_out = {one.text() for one in self.unavoidable(rules, points)}
        return [one for one in requirements_of(rules, self.shop(points), self.held) if one.text() not in left_out]

    def unavoidable(self, rules: Rules, points: Sequence[Floats]) -> list[Requirement]:
        """What no plan can keep, since it is about held offers alone."""
        shop = self.shop(points)
        return unavoidable(requirements_of(rules, shop), self.held, shop.today_points, self.today)

    def shop(self, points: Sequence[Floats]) -> Shop:
        """What rules are turned into constraints with."""
        return Shop(self.offers, points, self.today.revenue, self.calendar)

    def best(self, points: Sequence[Floats], requirements: Sequence[Requirement]) -> tuple[Plan | None, bool]:
        """The best plan that was found, and whether the requirements were shown to be infeasible."""
        ends, settings = time.monotonic() + self.settings.time_limit_s, self.settings
        anchor, best = self.offers.price, None
        for number in range(1, MAX_ROUNDS + 1):
            left_s = ends - time.monotonic()
            solved, exact = self._solved(points, requirements, anchor, time_limit_s=left_s)
            if solved.points is None:
                return best, solved.is_infeasible and number == 1
            price = np.array([one[point] for one, point in zip(points, solved.points, strict=True)])
            planned = money(self.demand, self.offers, price)
            plan = Plan(
                price, self.today, planned, exact, solved.is_optimal, solved.gap, number, points, requirements, ()
            )
            missing = {one.text(): short for one in requirements if (short := shortfall(one, planned))}
            is_better = best is None or _value(plan, settings.caution) > _value(best, settings.caution) + ROUNDING
            if not missing and is_better:
                best = plan
            if (not missing and (exact or not is_better or np.array_equal(price, anchor))) or time.monotonic() >= ends:
                break
            requirements = [_raised(one, missing.get(one.text(), 0.0)) for one in requirements]
            anchor = price
        return best, False

    def or_unchanged(
        self, plan: Plan | None, points: Sequence[Floats], requirements: Sequence[Requirement]
    ) -> Plan | None:
        """Today's prices, if they keep everything and the plan is no better, or there is none."""
        at = self.shop(points).today_points
        if broken(requirements, at, self.today):
            return plan
        caution = self.settings.caution
        price = np.array([each[point] for each, point in zip(points, at, strict=True)])
        unchanged = Plan(price, self.today, self.today, True, False, np.inf, 0, points, requirements, ())
        is_better = plan is not None and _value(plan, caution) > _value(unchanged, caution) + ROUNDING
        return plan if is_better else dataclasses.replace(plan, price=price, planned=self.today) if plan else unchanged

    def conflict(self, points: Sequence[Floats], requirements: Sequence[Requirement]) -> list[Requirement]:
        """An irreducible set of requirements, none if they are not shown to be infeasible."""
        limit_s = self.settings.time_limit_s
        ends = time.monotonic() + CONFLICT_TIMES * limit_s

        def is_infeasible(some: Sequence[Requirement]) -> bool:
            left_s = min(ends - time.monotonic(), limit_s)
            return left_s > 0 and program.solve(None, some, time_limit_s=left_s, gap=1.0).is_infeasible

        blocks, _ = self._blocks(points, self.offers.price)
        program = Program(blocks, [len(one) for one in points])
        return irreducible(requirements, is_infeasible) if is_infeasible(requirements) else []

    def _solved(
        self, points: Sequence[Floats], requirements: Sequence[Requirement], anchor: Floats, *, time_limit_s: float
    ) -> tuple[Solved, bool]:
        blocks, exact = self._blocks(points, anchor)
        today = self.shop(points).today_points
        worth = [_worth(block, today, self.settings.caution) for block in blocks]
        program = Program(blocks, [len(one) for one in points])
        return program.solve(worth, requirements, time_limit_s=time_limit_s, gap=self.settings.gap), exact

    def _blocks(self, points: Sequence[Floats], anchor: Floats) -> tuple[list[Block], bool]:
        limit = self.settings.max_combinations
        return blocks_of(self.demand, self.offers, points, anchor, max_combinations=limit)


def _require_costs(offers: Offers, held: Mapping[int, str]) -> None:
    unknown = [index for index in np.flatnonzero(np.isnan(offers.cost)).tolist() if index not in held]
    if unknown:
        raise ValueError(f"the cost of {offers.name(unknown[0])} is not known; give it, or hold the offer at its price")


def _require_demand(offers: Offers, today: Money) -> None:
    """Raise ValueError for a demand that is negative or no finite number at today's prices."""
    wrong = np.flatnonzero(~(np.isfinite(today.units) & (today.units >= 0)))
    if len(wrong):
        raise ValueError(
            f"the demand for {offers.name(int(wrong[0]))} at today's price is {today.units[wrong[0]]:g} units; a model "
            "of demand gives numbers of zero or more"
        )


def _worth(block: Block, today: Ints, caution: float) -> Floats:
    """Mean profit of each choice, less `caution` standard deviations of its difference from today's prices."""
    mean: Floats = block.profit.mean(0)
    reference = block.profit[:, (block.choices == today[block.offers]).all(1)]
    worth: Floats = mean - caution * (block.profit - reference).std(0)
    return worth


def _value(plan: Plan, caution: float) -> float:
    """Expected profit, less the caution."""
    change = plan.planned.profit - plan.today.profit
    return float(plan.planned.profit.mean() - caution * change.std())


def _raised(requirement: Requirement, by: float) -> Requirement:
    """The requirement with a floor that is higher for the program, so that the joint demand reaches what is asked."""
    if requirement.floor is None or not by:
        return requirement
    return dataclasses.replace(
        requirement, floor=dataclasses.replace(requirement.floor, extra=requirement.floor.extra + by)
    )
