"""Recommended prices with their reasons, or none: a plan by all models, with its claim cross-fitted over two halves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.pricing.bands import Band, band, bands
from models.pricing.blocks import by_offer, money
from models.pricing.claims import Claim
from models.pricing.constraints import Calendar
from models.pricing.crossfit import CrossFitted, Part, cross_fit, parts_of, significant_parts
from models.pricing.demand import FittedDemand, elasticities
from models.pricing.design import Design
from models.pricing.expected import Expected, expected_of
from models.pricing.fitted import Fitted
from models.pricing.keeping import broken
from models.pricing.offers import Offers, changes
from models.pricing.optimise import NoPlanFound, Plan, RulesConflict, Settings, optimise
from models.pricing.panel import Flags, Floats, Ints
from models.pricing.reasons import Reasons
from models.pricing.rules import Rules
from models.pricing.trust import WARNINGS, Flag

Verdict = Literal["recommended", "in part", "none"]


@dataclass(frozen=True)
class Priced:
    """One offer with its price of today and the new one, which is the same where nothing is recommended.

    `part` is the number of its part, those demand groups that the rules couple with its own; `effect` is the
    re-estimated change of profit a period of the whole part, None where nothing was re-estimated.
    """

    product: str
    store: str
    old: float
    new: float
    reason: str
    today: Expected
    planned: Expected
    elasticity: Band
    cost: float | None
    is_held: bool
    part: int
    effect: Band | None
    flags: tuple[str, ...]

    @property
    def is_changed(self) -> bool:
        """Whether a new price is recommended."""
        return self.new != self.old


@dataclass(frozen=True)
class Recommendation:
    """The verdict with its reason, and a row for each offer, in their order.

    `claim` is about the changes that are recommended; about all that were looked at where none are; None where there
    were none. `profit_today` and `profit` are those of all offers a period. `left_out` says which parts were left out
    and why, `broken` which rules the prices do not keep: those that today's prices break already.
    """

    verdict: Verdict
    reason: str
    rows: tuple[Priced, ...]
    claim: Claim | None
    profit_today: Band
    profit: Band
    left_out: tuple[str, ...]
    broken: tuple[str, ...]


def recommend(
    offers: Offers,
    state: Design,
    fitted: Fitted,
    rules: Rules,
    *,
    calendar: Calendar,
    settings: Settings,
    flags: Sequence[Sequence[Flag]],
) -> Recommendation:
    """The prices that earn most by all rules, as far as models of another class on other weeks expect a gain, too.

    Offers with flags [I] that are more than warnings, without a known cost, or with a cost that is not below the
    price stay at today's price. The claim is cross-fitted: the prices that the models of one half of the weeks
    choose are estimated again by the evaluators of the other half, in both directions, so it is about this way of
    choosing prices. If its lower bound is not above zero, parts of the offers whose own gain is above zero are kept
    (`crossfit.significant_parts`; a second test, so that either errs with a chance of at most twice claims.LEVEL), or
    all prices stay. The gain of kept parts is that of the best ones and likely too high.

    Three plans are made; each takes at most Settings.time_limit_s, or four times that where rules conflict, besides
    the models' time. Deterministic unless a time limit ends a solve. Raises RulesConflict, NoPlanFound, and ValueError.
    """
    held = held_offers(offers, flags)
    demand = fitted.demand.at(state)
    plan = optimise(offers, demand, rules, calendar=calendar, settings=settings, held=held)
    decided = _Decision(offers, plan, Reasons(offers, demand, plan, held))
    if len(held) == len(offers):
        return decided.result(state, fitted, flags, "none", "none of the offers can be priced; each row says why")
    demands = [half.at(state) for half in fitted.halves]
    try:
        halves = [
            optimise(offers, one, rules, calendar=calendar, settings=settings, held=held).price for one in demands
        ]
    except (RulesConflict, NoPlanFound) as error:
        reason = f"no recommendation: the models of one half of the weeks find no prices that keep all rules: {error}"
        return decided.result(state, fitted, flags, "none", reason)
    found = cross_fit((halves[0], halves[1]), offers, state, fitted)
    parts = parts_of(offers, plan.requirements)
    changed = changes(offers, plan.price) | changes(offers, halves[0]) | changes(offers, halves[1])
    return _verdict(decided, state, fitted, flags, found, significant_parts(found, parts, changed))


def held_offers(offers: Offers, flags: Sequence[Sequence[Flag]]) -> dict[int, str]:
    """The offers that stay at today's price whatever demand models say, each with the reason in words."""
    held = {}
    for index, found in enumerate(flags):
        cost, price = float(offers.cost[index]), float(offers.price[index])
        if np.isnan(cost):
            held[index] = "its cost is not known"
        elif cost >= price:
            held[index] = f"its cost of {cost:.2f} is not below its price of {price:.2f}"
        elif reasons := [flag.text for flag in found if flag.name not in WARNINGS]:
            held[index] = f"its demand is not to be trusted: {'; '.join(reasons)}"
    return held


def _verdict(
    decided: _Decision,
    state: Design,
    fitted: Fitted,
    flags: Sequence[Sequence[Flag]],
    found: CrossFitted,
    parts: Sequence[Part],
) -> Recommendation:
    """All changes, those of the parts whose own gain is above zero, or none."""
    everything = np.ones(len(decided.offers), bool)
    claim = found.claim(everything)
    decided = dataclasses.replace(decided, parts=parts, claim=claim)
    if not changes(decided.offers, decided.plan.price).any():
        return decided.result(state, fitted, flags, "none", "today's prices earn most of those that the rules allow")
    if claim.is_recommended:
        return decided.result(state, fitted, flags, "recommended", claim.text(), kept=everything)
    kept = np.isin(np.arange(len(everything)), [index for part in parts if part.is_kept for index in part.offers])
    if len(parts) == 1 or not changes(decided.offers, decided.plan.price)[kept].any():
        why = "the rules couple all demand groups" if len(parts) == 1 else "no part of the offers gains for certain"
        return decided.result(state, fitted, flags, "none", f"{claim.text()}; {why}")
    chosen = found.claim(kept)
    reason = f"recommended for a part of the offers: {chosen.text()}; for all offers, {claim.text()}"
    return dataclasses.replace(decided, claim=chosen).result(state, fitted, flags, "in part", reason, kept=kept)


@dataclass(frozen=True)
class _Decision:
    """The plan, and what is known of its gain."""

    offers: Offers
    plan: Plan
    reasons: Reasons
    parts: Sequence[Part] = ()
    claim: Claim | None = None

    def result(
        self,
        state: Design,
        fitted: Fitted,
        flags: Sequence[Sequence[Flag]],
        verdict: Verdict,
        reason: str,
        *,
        kept: Flags | None = None,
    ) -> Recommendation:
        """The recommendation with the new prices of the `kept` offers [I], none by default."""
        demand, offers = fitted.demand.at(state), self.offers
        is_new = changes(offers, self.plan.price) & (False if kept is None else kept)
        price = np.where(is_new, self.plan.price, offers.price)
        before, after = (by_offer(demand, offers, one) for one in (offers.price, price))
        return Recommendation(
            verdict=verdict,
            reason=reason,
            rows=self._rows(demand, price, flags, before=expected_of(before), after=expected_of(after)),
            claim=self.claim,
            profit_today=band(before.profit.sum(-1)),
            profit=band(after.profit.sum(-1)),
            left_out=self._left_out(is_new),
            broken=self._broken(demand, price),
        )

    def _rows(
        self,
        demand: FittedDemand,
        price: Floats,
        flags: Sequence[Sequence[Flag]],
        *,
        before: Sequence[Expected],
        after: Sequence[Expected],
    ) -> tuple[Priced, ...]:
        offers, steep = self.offers, bands(elasticities(demand, self.offers.price))
        part_of = {int(index): number for number, part in enumerate(self.parts) for index in part.offers}
        return tuple(
            Priced(
                product=offers.products[index],
                store=offers.stores[index],
                old=float(offers.price[index]),
                new=float(price[index]),
                reason=self._reason(index, price, steep[index]),
                today=before[index],
                planned=after[index],
                elasticity=steep[index],
                cost=None if np.isnan(offers.cost[index]) else float(offers.cost[index]),
                is_held=index in self.reasons.held,
                part=part_of.get(index, 0),
                effect=self.parts[part_of[index]].effect if self.parts else None,
                flags=tuple(flag.text for flag in flags[index]),
            )
            for index in range(len(offers))
        )

    def _reason(self, index: int, price: Floats, elasticity: Band) -> str:
        was_planned = changes(self.offers, self.plan.price)[index]
        if was_planned and price[index] == self.offers.price[index]:
            asked = f"{self.plan.price[index]:.2f} was looked at"
            return f"unchanged: {asked}, but a gain is not certain enough to recommend it"
        return self.reasons.of(index, elasticity)

    def _left_out(self, is_new: Flags) -> tuple[str, ...]:
        if not is_new.any():
            return ()
        planned = changes(self.offers, self.plan.price)
        return tuple(
            f"{_listed(self.offers, part.offers)}: {part.effect.mean:+.2f} profit a period "
            f"({part.effect.low:+.2f} to {part.effect.high:+.2f}), which may be nothing"
            for part in self.parts
            if planned[part.offers].any() and not is_new[part.offers].any()
        )

    def _broken(self, demand: FittedDemand, price: Floats) -> tuple[str, ...]:
        points = np.array([np.abs(one - at).argmin() for one, at in zip(self.plan.points, price, strict=True)])
        found = broken(self.plan.requirements, points, money(demand, self.offers, price))
        return tuple(one.text() for one in [*self.plan.unavoidable, *found])


def _listed(offers: Offers, indexes: Ints, *, limit: int = 3) -> str:
    named = [offers.name(int(index)) for index in indexes[:limit]]
    return ", ".join(named) + (f" and {len(indexes) - limit} more" if len(indexes) > limit else "")
