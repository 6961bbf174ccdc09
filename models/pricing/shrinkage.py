"""Empirical Bayes: coefficients of products as draws of a normal distribution that is fitted to all of them."""

from __future__ import annotations

import numpy as np

from models.pricing.panel import Floats

MIN_PRODUCTS = 3
"""Shrinkage needs so many products in a group."""
MAX_STEPS = 200
TOLERANCE = 1e-6


def prior(estimates: Floats, covariances: Floats) -> tuple[Floats, Floats]:
    """The mean [K] and variances [K] of the products' coefficients [P, K] with covariances [P, K, K], by EM.

    Maximum likelihood of the prior of Efron and Morris (1975).
    """
    mean, variance = np.median(estimates, 0), estimates.var(0) + 1e-4
    for _ in range(MAX_STEPS):
        centres, spreads = _update(estimates, covariances, mean, variance)
        before, mean = mean, centres.mean(0)
        spread = np.maximum(np.diagonal(spreads, axis1=-2, axis2=-1), 0.0)  # rounding may put zeros below
        variance = ((centres - mean) ** 2 + spread).mean(0) + 1e-8
        if np.abs(mean - before).max() < TOLERANCE:
            break
    return mean, variance


def _update(estimate: Floats, covariance: Floats, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Posterior means [..., K] and covariances [..., K, K] of coefficients with a diagonal normal prior."""
    gain = variance[:, None] * np.linalg.inv(covariance + np.diag(variance))
    centre = mean + (gain @ (estimate - mean)[..., None])[..., 0]
    return centre, np.diag(variance) - gain * variance


def posterior(own: tuple[Floats, Floats] | None, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Mean [K] and standard deviations [K] of a product's coefficients, given its estimate and covariance if any."""
    if own is None:
        return mean, np.sqrt(variance)
    centre, covariance = _update(*own, mean, variance)
    return centre, np.sqrt(np.maximum(np.diag(covariance), 0.0))
