"""The cross-fitted claim: what plans of one half of the weeks gain by the evaluators of the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from models.pricing.bands import Band, band
from models.pricing.blocks import by_offer
from models.pricing.claims import LEVEL, Claim, check_evaluator
from models.pricing.constraints import Requirement
from models.pricing.design import Design
from models.pricing.fitted import Fitted
from models.pricing.keeping import concerned
from models.pricing.offers import Offers
from models.pricing.panel import Flags, Floats, Ints

MAX_CHANGES = "max_changes"
"""The rule that couples nothing here: it still holds when a part of the changes is left out."""


@dataclass(frozen=True)
class CrossFitted:
    """Changes of profit a period by offer, in both directions: `claimed` [2, I], `reestimated` [2, S, I].

    `claimed_today` [2] and `today` [2, S] are the profit of all offers at today's prices by the same models. The
    members of both evaluators are paired: a draw of the blocks of one half goes with a draw of those of the other.
    """

    claimed: Floats
    claimed_today: Floats
    reestimated: Floats
    today: Floats

    def claim(self, offers: Flags) -> Claim:
        """The claim about the price changes of some offers [I], relative to today's profit of all of them.

        The bounds are the percentile interval of the paired members, averaged over both directions.
        """
        claimed = float((self.claimed[:, offers].sum(-1) / self.claimed_today).mean())
        gains = (self.reestimated[:, :, offers].sum(-1) / self.today).mean(0)
        low, high = np.quantile(gains, [LEVEL, 1 - LEVEL])
        return Claim(claimed, float(gains.mean()), float(low), float(high))

    def amounts(self, offers: Flags) -> Floats:
        """The re-estimated change of profit a period [S] of some offers [I]."""
        amounts: Floats = self.reestimated[:, :, offers].sum(-1).mean(0)
        return amounts


def cross_fit(prices: tuple[Floats, Floats], offers: Offers, state: Design, fitted: Fitted) -> CrossFitted:
    """What both halves claim of their own prices [I], and the other half's evaluators expect of them.

    Prices that were chosen for anything else are estimated again in the same way. Raises ValueError if a claim is
    evaluated by its own class of model or by too few members, or if today's prices bring no profit.
    """
    claimed, claimed_today, again, today = [], [], [], []
    size = min(len(one.members) for one in fitted.evaluators)
    for price, half, evaluators in zip(prices, fitted.halves, reversed(fitted.evaluators), strict=True):
        check_evaluator(half.members, evaluators.members)
        before, after = (by_offer(half.at(state), offers, one).profit for one in (offers.price, price))
        claimed.append((after - before).mean(0))
        claimed_today.append(before.sum(-1).mean())
        before, after = (by_offer(evaluators.at(state), offers, one).profit[:size] for one in (offers.price, price))
        again.append(after - before)
        today.append(before.sum(-1))
    if (np.array(claimed_today) <= 0).any() or (np.array(today) <= 0).any():
        raise ValueError("today's prices bring no profit, so that a relative gain means nothing; check the costs")
    return CrossFitted(np.stack(claimed), np.array(claimed_today), np.stack(again), np.stack(today))


@dataclass(frozen=True)
class Part:
    """Demand groups that the rules couple, with the re-estimated change of profit a period.

    `p_value` is of the hypothesis that nothing is gained, by a t-test over the paired members; NaN where no price of
    the part changes.
    """

    offers: Ints
    effect: Band
    p_value: float
    is_kept: bool


def parts_of(offers: Offers, requirements: Sequence[Requirement]) -> Ints:
    """The part [I] of each offer, from 0: demand groups that any requirement is about together are one part."""
    parent = {int(group): int(group) for group in np.unique(offers.group)}

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    for requirement in requirements:
        if requirement.kind != MAX_CHANGES:
            first, *others = {root(int(offers.group[index])) for index in concerned(requirement)} or {root(min(parent))}
            for other in others:
                parent[max(root(first), root(other))] = min(root(first), root(other))
    _, parts = np.unique([root(int(group)) for group in offers.group], return_inverse=True)
    numbers: Ints = parts.astype(np.int64)
    return numbers


def significant_parts(found: CrossFitted, parts: Ints, changed: Flags) -> list[Part]:
    """The parts, with those kept whose gain is above zero by Holm's procedure (Holm, 1979).

    Of the parts in which prices change, those with the lowest p-values are kept: the lowest against LEVEL / m for m
    parts, the next against LEVEL / (m - 1), and so on until one fails. The chance that any part is kept that gains
    nothing is then at most LEVEL, as far as the spread of the evaluators' members tells their errors.
    """
    offers = [np.flatnonzero(parts == number) for number in range(int(parts.max()) + 1)]
    amounts = [found.amounts(parts == number) for number in range(len(offers))]
    p_values = [
        _p_value(each) if changed[members].any() else np.nan for members, each in zip(offers, amounts, strict=True)
    ]
    tested = sorted((value, number) for number, value in enumerate(p_values) if not np.isnan(value))
    kept: set[int] = set()
    for rank, (value, number) in enumerate(tested):
        if value > LEVEL / (len(tested) - rank):
            break
        kept.add(number)
    return [
        Part(members, band(each), value, number in kept)
        for number, (members, each, value) in enumerate(zip(offers, amounts, p_values, strict=True))
    ]


def _p_value(amounts: Floats) -> float:
    error = float(amounts.std(ddof=1))
    if error == 0:
        return 0.0 if amounts.mean() > 0 else 1.0
    return float(t.sf(amounts.mean() / error, len(amounts) - 1))
