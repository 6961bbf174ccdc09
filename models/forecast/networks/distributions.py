"""Distributions of demand: a negative binomial of each period, or quantiles of it, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

Floats = npt.NDArray[np.float64]

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
"""Levels of the quantiles that a quantile head learns."""
MAX_DISPERSION = 1e4
"""A negative binomial with a larger parameter is a Poisson distribution, as far as one can tell."""
SMALLEST_MEAN = 1e-6


@dataclass(frozen=True)
class Distribution:
    """Demand in each period, [B, H]; all on the CPU as float64 arrays, for functions that torch lacks."""

    mean: Floats
    dispersion: Floats | None = None
    """Of a negative binomial: the variance is mean + mean^2 / dispersion. None for `quantiles`."""
    quantiles: Floats | None = None
    """[B, H, LEVELS], ascending."""
    step: float = 1.0
    """Between two amounts of units: 1 for whole ones, 0 for any."""

    def with_mean(self, mean: Floats) -> Self:
        """The same shape around another mean."""
        if self.quantiles is None:
            return replace(self, mean=mean)
        ratio = mean / np.maximum(self.mean, SMALLEST_MEAN)
        return replace(self, mean=mean, quantiles=self.quantiles * ratio[..., None])

    def variance(self) -> Floats:
        """[B, H]; of quantiles that of the piecewise linear distribution between them."""
        if self.dispersion is not None:
            return self.mean + self.mean**2 / self.dispersion
        assert self.quantiles is not None
        steps = np.diff(LEVELS)
        middle = (self.quantiles[..., 1:] + self.quantiles[..., :-1]) / 2
        return np.asarray(np.einsum("bhk,k->bh", (middle - self.mean[..., None]) ** 2, steps) / float(steps.sum()))

    def below(self, units: Floats) -> Floats:
        """P(demand < units) [B, H]: the level from which on the quantiles are at least the units [B, H]."""
        if self.dispersion is not None:
            return _below(self.mean, self.dispersion, units)
        assert self.quantiles is not None
        return np.where(units > 0, _interpolated(self.quantiles, units - self.step / 2), 0.0)

    def at_most(self, units: Floats) -> Floats:
        """P(demand <= units) [B, H]."""
        if self.dispersion is not None:
            return _below(self.mean, self.dispersion, units + 1)
        assert self.quantiles is not None
        return _interpolated(self.quantiles, units + self.step / 2)

    def quantile(self, levels: Floats) -> Floats:
        """The quantiles [B, H, Q] at levels [B, H, Q]."""
        if self.dispersion is not None:
            return negative_binomial(self.mean[..., None], self.dispersion[..., None], levels)
        assert self.quantiles is not None
        place = np.interp(levels, LEVELS, np.arange(len(LEVELS)))
        low = np.minimum(place.astype(np.int64), len(LEVELS) - 2)
        lower, upper = (np.take_along_axis(self.quantiles, low + step, -1) for step in (0, 1))
        return np.maximum(lower + (place - low) * (upper - lower), 0.0)

    def total(self) -> Distribution:
        """The demand of the first h periods together, for each h [B, H]: moments of independent periods."""
        mean, variance = self.mean.cumsum(1), self.variance().cumsum(1)
        return Distribution(mean, dispersion=dispersion_of(mean, variance))


def dispersion_of(mean: Floats, variance: Floats) -> Floats:
    """The parameter of a negative binomial with these moments; almost Poisson where the variance is no larger."""
    excess = np.maximum(variance - mean, 1e-9)
    return np.clip(mean**2 / excess, 1e-3, MAX_DISPERSION)


def negative_binomial(mean: Floats, dispersion: Floats, levels: Floats) -> Floats:
    """Quantiles of negative binomial distributions."""
    from scipy import stats  # takes a second, which verbs that forecast nothing need not wait for

    mean, dispersion, levels = np.broadcast_arrays(mean, dispersion, levels)
    share = dispersion / (dispersion + np.maximum(mean, SMALLEST_MEAN))
    found = np.asarray(stats.nbinom.ppf(levels, dispersion, share), np.float64)
    return np.maximum(np.nan_to_num(found), 0.0)


def quantile_losses(quantiles: Tensor, target: Tensor, is_censored: Tensor, levels: Tensor) -> Tensor:
    """Pinball losses [B, H, Q]; above a censored target nothing is lost (Powell, 1986)."""
    gap = target[..., None] - quantiles
    over = (levels - 1) * gap
    return torch.where(gap >= 0, levels * gap, torch.where(is_censored[..., None], torch.zeros_like(over), over))


def _below(mean: Floats, dispersion: Floats, units: Floats) -> Floats:
    share = dispersion / (dispersion + np.maximum(mean, SMALLEST_MEAN))
    found = special.betainc(dispersion, np.maximum(units, 1e-9), share)
    return np.asarray(np.where(units > 0, found, 0.0), np.float64)


def _interpolated(quantiles: Floats, units: Floats) -> Floats:
    """The level at which piecewise linear quantiles [B, H, K] reach the units [B, H]."""
    place = (quantiles < units[..., None]).sum(-1)
    inside = np.clip(place, 1, len(LEVELS) - 1)
    upper, lower = (np.take_along_axis(quantiles, (inside - step)[..., None], -1)[..., 0] for step in (0, 1))
    share = np.clip((units - lower) / np.maximum(upper - lower, 1e-9), 0, 1)
    levels = np.array(LEVELS)
    found = levels[inside - 1] + share * (levels[inside] - levels[inside - 1])
    return np.where(place == 0, 0.0, np.where(place == len(LEVELS), 1.0, found))
