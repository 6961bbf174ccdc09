"""What a forecaster answers: of a batch for metrics, and of one window for a response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.forecast.networks.distributions import Distribution, negative_binomial

Floats = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MEDIAN = QUANTILES.index(0.5)
COVERAGE = 0.9


@dataclass(frozen=True)
class Forecast:
    """The forecast of one window of H periods."""

    mean: Floats
    """[H]"""
    quantiles: Floats
    """[H, Q] at the levels of QUANTILES."""
    interval: Floats
    """[H, 2] of 90 %: from 0 on where demand is that rare, else from the 5 % to the 95 % quantile."""
    total_mean: Floats
    """Of the first h periods together [H]."""
    total_dispersion: Floats
    """[H]"""
    total_levels: Floats
    """The level to take of the total's distribution for each of 0, 1 / NUM_BINS, ... 1."""
    start: int
    """The first period of the forecast, counted from the model's first."""

    def total_quantile(self, level: float, periods: int) -> float:
        """The demand of the first periods together that is not exceeded with the probability `level`."""
        corrected = np.interp(level, np.linspace(0, 1, len(self.total_levels)), self.total_levels)
        place = periods - 1
        mean, dispersion = self.total_mean[place : place + 1], self.total_dispersion[place : place + 1]
        return float(negative_binomial(mean, dispersion, np.array([corrected]))[0])


@dataclass(frozen=True)
class Answers:
    """The forecasts of a batch of B windows."""

    distribution: Distribution
    quantiles: Floats
    """[B, H, QUANTILES]"""
    interval: Floats
    """[B, H, 2]"""
