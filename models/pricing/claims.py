"""The claimed gain of new prices against one that is estimated again, by another class of model on other weeks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.blend import Blend, Predictor
from models.pricing.blocks import Demand, money
from models.pricing.demand import FittedDemand
from models.pricing.offers import Offers
from models.pricing.panel import Floats

MIN_MEMBERS = 10
LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """Relative gains of expected profit: as claimed, and as estimated again with the bounds of a 90 % interval.

    `inflation` is the difference in percentage points. New prices are recommended only if `low` is above zero.
    """

    claimed: float
    reestimated: float
    low: float
    high: float

    @property
    def inflation(self) -> float:
        """Claimed minus re-estimated gain, in percentage points."""
        return 100 * (self.claimed - self.reestimated)

    @property
    def is_recommended(self) -> bool:
        """Whether the gain is above zero with 95 % confidence, as far as the evaluator can tell."""
        return self.low > 0

    def text(self) -> str:
        """The verdict in one sentence."""
        told = (
            f"the model claims {self.claimed:+.1%} profit; another class of model on other weeks expects "
            f"{self.reestimated:+.1%} ({self.low:+.1%} to {self.high:+.1%})"
        )
        return told if self.is_recommended else f"no recommendation: {told}, which may be a loss"


def check_claim(price: Floats, offers: Offers, *, claims: FittedDemand, evaluator: FittedDemand) -> Claim:
    """Compare what two demand models expect of new prices [I].

    The evaluator's members must be refits on bootstrap samples of blocks of weeks, at least MIN_MEMBERS; its interval
    is their percentile interval. Both halves of the weeks come from `weeks.alternating_halves`. Raises ValueError if
    both models are of one class, since a model that evaluates its own prices believes its own errors.
    """
    check_evaluator(claims.members, evaluator.members)
    claimed = relative_gains(price, offers, claims)
    reestimated = relative_gains(price, offers, evaluator)
    low, high = np.quantile(reestimated, [LEVEL, 1 - LEVEL])
    return Claim(float(claimed.mean()), float(reestimated.mean()), float(low), float(high))


def check_evaluator(claims: Sequence[Predictor], evaluator: Sequence[Predictor]) -> None:
    """Raise ValueError if models share a class with those that estimate their claim again, or if these are too few."""
    same = classes_of(claims) & classes_of(evaluator)
    if same:
        raise ValueError(f"{', '.join(sorted(same))} cannot evaluate its own claim; use another class of model")
    if len(evaluator) < MIN_MEMBERS:
        raise ValueError(f"the evaluator has {len(evaluator)} bootstrap members; it needs {MIN_MEMBERS} or more")


def classes_of(models: Sequence[Predictor]) -> set[str]:
    """The names of the models' classes; of a blend those of its parts."""
    found: set[str] = set()
    for model in models:
        found |= classes_of(model.models) if isinstance(model, Blend) else {type(model).__name__}
    return found


def relative_gains(price: Floats, offers: Offers, demand: Demand) -> Floats:
    """The relative gain of expected profit [S] by member; raises ValueError where today's profit is not positive."""
    today, planned = (money(demand, offers, one).profit for one in (offers.price, price))
    if (today <= 0).any():
        raise ValueError("today's prices bring no profit, so that a relative gain means nothing; check the costs")
    gains: Floats = planned / today - 1
    return gains
