"""Priors of products' reputations: mixtures of beta distributions by category, fitted by marginal likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.reviews.reputation.beta import Floats, Ints, log_beta

MIN_PRODUCTS = 10
"""A category with fewer products that have reviews takes the prior of all products."""
STRENGTHS = np.exp(np.linspace(np.log(0.5), np.log(500.0), 24))
"""Candidates for a + b, in reviews."""
MEANS = np.linspace(0.02, 0.98, 49)
USUAL_STRENGTH, STRENGTH_LOG_SD = 4.0, 2.0
"""A weak hyperprior, log-normal around 4 reviews: few products alone often fit an infinite or zero strength."""
KEPT_WEIGHT, MOST_COMPONENTS = 0.995, 32


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of a product without reviews: Beta(positive, negative) with the given weights [K]."""

    positive: Floats
    negative: Floats
    weights: Floats
    of: str
    """The category whose products it was fitted to, or "all"."""

    @property
    def mean(self) -> float:
        """The expected share of positive reviews."""
        return float((self.weights * self.positive / (self.positive + self.negative)).sum())

    @property
    def strength(self) -> float:
        """How many reviews of its own outweigh the prior: the weighted geometric mean of the components' a + b."""
        return float(np.exp((self.weights * np.log(self.positive + self.negative)).sum()))


def fit_prior(positive: Floats, total: Floats, of: str = "all") -> Prior:
    """The prior of products with these numbers of positive and all reviews [P], which may be fractions.

    Each point of a grid of means and strengths is weighted by its beta-binomial marginal likelihood: empirical Bayes
    (Efron and Morris, 1975) that keeps how unsure the fit is. The best point alone made intervals too short: with 20
    products of 3 reviews those of 90 % held 70 to 91 %. Without reviews it is Beta(1, 1).
    """
    has_some = total > 0
    if not has_some.any():
        one = np.ones(1)
        return Prior(one, one, one, of)
    scores = _log_posterior(positive[has_some], total[has_some]).ravel()
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    enough = int(np.searchsorted(np.cumsum(weights[order]), KEPT_WEIGHT)) + 1
    kept = order[: min(enough, MOST_COMPONENTS)] if enough <= MOST_COMPONENTS else _spread(weights, order)
    mean, strength = (grid.ravel()[kept] for grid in np.meshgrid(MEANS, STRENGTHS, indexing="ij"))
    chosen = weights[kept] if enough <= MOST_COMPONENTS else np.ones(len(kept))
    return Prior(mean * strength, (1 - mean) * strength, chosen / chosen.sum(), of)


def fit_priors(positive: Floats, total: Floats, categories: Sequence[str]) -> dict[str, Prior]:
    """The prior of each category of products [P]; that of all where there are too few products."""
    assert len(positive) == len(total) == len(categories)
    everything = fit_prior(positive, total)
    names = np.array(categories, dtype=object)
    found = {}
    for name in dict.fromkeys(categories):
        own = (names == name) & (total > 0)
        enough = own.sum() >= MIN_PRODUCTS
        found[name] = fit_prior(positive[own], total[own], str(name)) if enough else everything
    return found


def _spread(weights: Floats, order: Ints) -> Ints:
    """So many points as are allowed, each standing for an equal part of the weight: a systematic sample of the grid.

    The grid is read by mean and within it by strength, so that neighbours in the sample are neighbours in the grid.
    """
    inside = np.sort(order)
    places = (np.arange(MOST_COMPONENTS) + 0.5) / MOST_COMPONENTS
    found: Ints = inside[np.searchsorted(np.cumsum(weights[inside]), places * weights.sum()).clip(max=len(inside) - 1)]
    return found


def _log_posterior(positive: Floats, total: Floats) -> Floats:
    """The log posterior of every mean and strength of the grid, up to a constant."""
    scores = np.empty((len(MEANS), len(STRENGTHS)))
    negative = total - positive
    for column, strength in enumerate(STRENGTHS):
        a, b = MEANS[:, None] * strength, (1 - MEANS[:, None]) * strength
        likelihood = (log_beta(a + positive, b + negative) - log_beta(a, b)).sum(1)
        scores[:, column] = likelihood - 0.5 * (np.log(strength / USUAL_STRENGTH) / STRENGTH_LOG_SD) ** 2
    return scores
