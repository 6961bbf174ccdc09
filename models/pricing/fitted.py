"""Fitted models by what they are for: choosing prices, claiming a gain, and estimating that claim again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.pricing.blend import Predictor
from models.pricing.demand import FittedDemand, rival_rows
from models.pricing.design import Design
from models.pricing.panel import Floats


@dataclass(frozen=True)
class Models:
    """The members [S] of an ensemble; `smearing` [S, P] are the means of units by expected ones of each product."""

    members: Sequence[Predictor]
    smearing: Floats

    def __post_init__(self) -> None:
        assert len(self.members) == len(self.smearing), "a row of smearing for each member"

    def at(self, state: Design) -> FittedDemand:
        """The demand of the offers that are the rows of `state` [I]."""
        return FittedDemand(self.members, state, rival_rows(state), self.smearing)


@dataclass(frozen=True)
class Fitted:
    """`demand` has all members and chooses prices; the others check what such prices gain.

    `halves` were trained on the even and on the odd blocks of periods (`weeks.alternating_halves`). `evaluators` are
    models of another class, refitted on bootstrap samples of the blocks of the same half. Prices by one half are
    estimated again by the evaluators of the other, so that neither the class nor the periods are shared.
    """

    demand: Models
    halves: tuple[Models, Models]
    evaluators: tuple[Models, Models]
