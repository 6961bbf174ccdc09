"""What a forecaster answers: of a batch for metrics, and of one window for a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from models.forecast.groups import Kind
from models.forecast.networks.distributions import Distribution, dispersion_of, negative_binomial
from models.forecast.networks.totals import Totals

Floats = npt.NDArray[np.float64]

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MEDIAN = QUANTILES.index(0.5)
COVERAGE = 0.9


@dataclass(frozen=True)
class Forecast:
    """The forecast of one window of H periods."""

    mean: Floats
    """[H]"""
    variance: Floats
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
    totals: Totals
    """How uncertain totals over series are."""
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


def ends(low: Floats, upper: Floats, one_sided: Floats) -> Floats:
    """The ends [..., 2] of a 90 % interval: where the lower one is 0, all of the 10 % lie above."""
    return np.stack([low, np.where(low > 0, upper, one_sided)], -1)


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """The forecast of several series together, such as a product in all stores: their means add up.

    Variances do too, as of independent series, and quantiles are those of a negative binomial with these moments.
    """
    if len(forecasts) == 1:
        return forecasts[0]
    mean = np.sum([each.mean for each in forecasts], axis=0)
    variance = np.sum([each.variance for each in forecasts], axis=0)
    total_mean = np.sum([each.total_mean for each in forecasts], axis=0)
    total_variance = np.sum(
        [each.total_mean + each.total_mean**2 / each.total_dispersion for each in forecasts], axis=0
    )
    dispersion = dispersion_of(mean, variance)
    quantiles = negative_binomial(mean[:, None], dispersion[:, None], np.array(QUANTILES)[None])
    low, upper, one_sided = (quantiles[:, QUANTILES.index(level)] for level in (0.05, 0.95, COVERAGE))
    return Forecast(
        mean=mean,
        variance=variance,
        quantiles=quantiles,
        interval=ends(low, upper, one_sided),
        total_mean=total_mean,
        total_dispersion=dispersion_of(total_mean, total_variance),
        total_levels=forecasts[0].total_levels,
        totals=forecasts[0].totals,
        start=forecasts[0].start,
    )


def total_of(forecasts: Sequence[Forecast], kind: Kind) -> Forecast:
    """The forecast of a total over series: means add up, and quantiles are those that validation calibrated."""
    whole = together(forecasts)
    found = whole.totals.of(kind).quantiles(whole.mean, whole.variance, (*QUANTILES, COVERAGE))
    low, upper = (found[:, QUANTILES.index(level)] for level in (0.05, 0.95))
    return replace(whole, quantiles=found[:, :-1], interval=ends(low, upper, found[:, -1]))
