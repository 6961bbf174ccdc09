"""The beta distribution: its distribution function, its quantiles and the normalising constant, on arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MAX_TERMS = 400
BISECTIONS = 40
SMALLEST = 1e-300


def log_beta(first: Floats, second: Floats) -> Floats:
    """log B(a, b), of any shape."""
    found: Floats = _log_gamma(first) + _log_gamma(second) - _log_gamma(first + second)
    return found


def beta_cdf(x: Floats, first: Floats, second: Floats) -> Floats:
    """P(X <= x) for X of Beta(a, b), of any shape; a and b are above 0.

    The continued fraction of the incomplete beta function by Lentz's method (Press et al., Numerical Recipes, 6.4).
    """
    x, first, second = np.broadcast_arrays(np.clip(x, 0.0, 1.0), first, second)
    swap = x > (first + 1) / (first + second + 2)
    a, b = np.where(swap, second, first), np.where(swap, first, second)
    at = np.where(swap, 1 - x, x)
    with np.errstate(divide="ignore"):
        log_front = a * np.log(at) + b * np.log1p(-at) - log_beta(a, b)
    lower = np.exp(log_front) * _fraction(at, a, b) / a
    found: Floats = np.clip(np.where(swap, 1 - lower, lower), 0.0, 1.0)
    return found


def beta_quantile(chance: Floats, first: Floats, second: Floats) -> Floats:
    """The x with P(X <= x) = chance, to 1e-12, by bisection; of any shape."""
    chance, first, second = np.broadcast_arrays(chance, first, second)
    low, high = np.zeros(chance.shape), np.ones(chance.shape)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_below = beta_cdf(middle, first, second) < chance
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2


def _log_gamma(values: Floats) -> Floats:
    found: Floats = torch.lgamma(torch.from_numpy(np.array(values, np.float64))).numpy()
    return found


def _fraction(x: Floats, a: Floats, b: Floats) -> Floats:
    """The continued fraction of the incomplete beta function."""
    total, c = a + b, np.ones_like(x)
    d = 1 / _away_from_zero(1 - total * x / (a + 1))
    found = d
    for number in range(1, MAX_TERMS):
        even = number * (b - number) * x / ((a + 2 * number - 1) * (a + 2 * number))
        d, c = 1 / _away_from_zero(1 + even * d), _away_from_zero(1 + even / c)
        found = found * d * c
        odd = -(a + number) * (total + number) * x / ((a + 2 * number) * (a + 2 * number + 1))
        d, c = 1 / _away_from_zero(1 + odd * d), _away_from_zero(1 + odd / c)
        found = found * d * c
        if np.all(np.abs(d * c - 1) < 1e-14):
            break
    return found


def _away_from_zero(values: Floats) -> Floats:
    return np.where(np.abs(values) < SMALLEST, SMALLEST, values)
