"""Price experiments by Thompson sampling: one step of the ladder at most, within a loss budget, with propensities.

Prices depend on the product, the store and the period, and never on who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.pricing.panel import Floats, Ints

MOVES = np.array([-1, 0, 1])
NUM_DRAWS = 256


@dataclass(frozen=True)
class Beliefs:
    """A normal posterior of log units = a + b * log(price / usual) for each offer: mean [I, 2], covariance [I, 2, 2].

    `noise` is the standard deviation of log units around that line.
    """

    mean: Floats
    covariance: Floats
    noise: float

    def updated(self, log_ratio: Floats, log_units: Floats) -> Beliefs:
        """The beliefs after one period with these log price ratios [I] and log units [I], NaN where not known."""
        seen = np.isfinite(log_units)
        x = np.stack([np.ones_like(log_ratio), log_ratio], axis=1)
        reach = np.einsum("ijk,ik->ij", self.covariance, x)
        gain = reach / (self.noise**2 + (reach * x).sum(1))[:, None] * seen[:, None]
        surprise = np.where(seen, log_units, 0.0) - (self.mean * x).sum(1)
        mean = self.mean + gain * surprise[:, None]
        return Beliefs(mean, self.covariance - gain[:, :, None] * reach[:, None, :], self.noise)

    def expected_units(self, log_ratio: Floats) -> Floats:
        """Expected units [I, A] at log price ratios [I, A]."""
        x = np.stack([np.ones_like(log_ratio), log_ratio], axis=-1)
        variance = np.einsum("iaj,ijk,iak->ia", x, self.covariance, x) + self.noise**2
        units: Floats = np.exp((x * self.mean[:, None]).sum(-1) + variance / 2)
        return units


def prior(log_level: Floats, elasticity: Floats, error: Floats, *, level_error: float, noise: float) -> Beliefs:
    """Beliefs from a fitted model: usual log units [I], elasticities [I] with standard errors [I]."""
    covariance = np.zeros((len(error), 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = level_error**2, error**2
    return Beliefs(np.stack([log_level, elasticity], axis=1), covariance, noise)


@dataclass(frozen=True)
class Decision:
    """The next points [I] of the ladder, and the probability [I, 3] with which each move (-1, 0, 1) was drawn.

    `loss` is the expected profit given up, by the beliefs, against the best move of every offer.
    """

    points: Ints
    move: Ints
    probability: Floats
    loss: float

    @property
    def propensity(self) -> Floats:
        """The probability of the move that was drawn [I]."""
        chosen: Floats = np.take_along_axis(self.probability, self.move[:, None] + 1, axis=1)[:, 0]
        return chosen


@dataclass(frozen=True)
class Ladders:
    """The points of each offer, with what turns a point into profit."""

    points: Sequence[Floats]
    usual: Floats
    cost: Floats

    def prices(self, at: Ints) -> Floats:
        """Prices [I] at points [I]."""
        return np.array([float(one[point]) for one, point in zip(self.points, at, strict=True)])

    def moves(self, at: Ints) -> tuple[Floats, np.ndarray]:
        """Prices [I, 3] after each move, and which moves stay on the ladder [I, 3]."""
        last = np.array([len(one) - 1 for one in self.points])
        wanted = at[:, None] + MOVES
        allowed = (wanted >= 0) & (wanted <= last[:, None])
        clipped = np.clip(wanted, 0, last[:, None])
        prices = np.array([one[points] for one, points in zip(self.points, clipped, strict=True)])
        return prices, allowed


def decide(
    beliefs: Beliefs, ladders: Ladders, at: Ints, *, loss_budget: float, draw: np.random.Generator, least: float = 0.02
) -> Decision:
    """Draw the next point of every offer, at most one step from `at` [I].

    The chance of a move is the share of posterior draws in which it earns most, and at least `least`; it is mixed with
    the move that is expected to earn most, so that the expected loss of the period is within `loss_budget`. The move is
    drawn with exactly these chances, which makes the propensities exact.
    """
    prices, allowed = ladders.moves(at)
    ratio = np.log(prices / ladders.usual[:, None])
    margin = prices - ladders.cost[:, None]
    expected = np.where(allowed, margin * beliefs.expected_units(ratio), -np.inf)
    wins = _wins(beliefs, ratio, np.where(allowed, margin, np.nan), draw)
    wins = np.where(allowed, np.maximum(wins, least), 0.0)
    wins /= wins.sum(1, keepdims=True)
    best = expected.argmax(1)
    regret = np.where(allowed, expected[np.arange(len(at)), best][:, None] - np.where(allowed, expected, 0.0), 0.0)
    loss = float((wins * regret).sum())
    share = 1.0 if loss <= loss_budget else max(0.0, loss_budget) / loss
    probability = share * wins + (1 - share) * np.eye(3)[best]
    chosen = (probability.cumsum(1) < draw.random(len(at))[:, None]).sum(1).clip(0, 2)
    chosen = np.where(probability[np.arange(len(at)), chosen] > 0, chosen, best)
    return Decision(at + MOVES[chosen], MOVES[chosen], probability, share * loss)


def _wins(beliefs: Beliefs, ratio: Floats, margin: Floats, draw: np.random.Generator) -> Floats:
    """The share of posterior draws [I, 3] in which each move earns most."""
    root = np.linalg.cholesky(beliefs.covariance + 1e-12 * np.eye(2))
    noise = draw.normal(size=(NUM_DRAWS, len(ratio), 2))
    lines = beliefs.mean + np.einsum("ijk,dik->dij", root, noise)
    profit = margin * np.exp(lines[:, :, :1] + lines[:, :, 1:] * ratio)
    best = np.nanargmax(np.where(np.isnan(profit), -np.inf, profit), axis=2)
    wins: Floats = (best[:, :, None] == np.arange(3)).mean(0)
    return wins


@dataclass(frozen=True)
class OffPolicy:
    """The mean reward that another policy would have had, its standard error, and the effective number of rows."""

    value: float
    error: float
    effective_rows: float


def off_policy(
    rewards: Floats,
    propensity: Floats,
    target: Floats,
    *,
    model_chosen: Floats | None = None,
    model_target: Floats | None = None,
) -> OffPolicy:
    """Estimate another policy from logged moves [N]: self-normalised importance weights, or doubly robust with a model.

    `target` is the other policy's probability of the move that was drawn. `model_chosen` and `model_target` are a
    model's rewards of that move and of the other policy (Dudik et al., 2011). Raises ValueError for propensities
    that are not above zero: such a log cannot say anything of other policies.
    """
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError(
            "propensities must be above 0 and at most 1; log the probability of each move when it is drawn"
        )
    weight = target / propensity
    if not weight.sum():
        raise ValueError("the other policy never makes a move of the log; nothing can be said about it")
    effective = float(weight.sum() ** 2 / np.square(weight).sum())
    if model_chosen is not None and model_target is not None:
        each = model_target + weight * (rewards - model_chosen)
        return OffPolicy(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))), effective)
    value = float((weight * rewards).sum() / weight.sum())
    error = float(np.sqrt(np.square(weight * (rewards - value)).sum()) / weight.sum())
    return OffPolicy(value, error, effective)
