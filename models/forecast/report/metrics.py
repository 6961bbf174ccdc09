"""The forecast family's metrics: what each measures, and how it is computed from a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.forecast.data import Windows
from models.forecast.networks.answers import MEDIAN, QUANTILES, Answers
from models.forecast.schema import KNOWN
from models.metrics import BatchMetrics, Kept, Metric, Ratio


def rmse_of_sales(kept: Kept) -> float:
    """Root mean squared error of the mean over periods with sales; NaN where there is none."""
    count = float(kept["num_sold"].sum())
    return math.sqrt(float(kept["squared_sold"].sum()) / count) if count else math.nan


def pooled_rmsse(kept: Kept) -> float:
    """Root of the mean over windows of the squared error in multiples of the naive one; NaN without a scale."""
    count = float(kept["is_scaled"].sum())
    return math.sqrt(float(kept["scaled_squared"].sum()) / count) if count else math.nan


def quantile_loss(kept: Kept) -> float:
    """Twice the mean pinball losses, by the units; NaN without units. A window without sales adds its loss."""
    units = float(kept["units"].sum())
    return 2 * float(kept["pinball"].sum()) / units if units else math.nan


def wape(kept: Kept) -> float:
    """The absolute errors of the mean, by the units; NaN without units."""
    units = float(kept["units"].sum())
    return float(kept["absolute_error"].sum()) / units if units else math.nan


def bias(kept: Kept) -> float:
    """Sum of the mean forecasts minus the units, by the units: below 0 is too low; NaN without units."""
    units = float(kept["units"].sum())
    return float(kept["error"].sum()) / units if units else math.nan


def absolute_bias(kept: Kept) -> float:
    """The size of the bias."""
    return abs(bias(kept))


def coverage_gap(kept: Kept) -> float:
    """How far the share of periods inside the 90 % interval is from 0.9; NaN without a period."""
    count = float(kept["num_known"].sum())
    return abs(float(kept["num_inside"].sum()) / count - 0.9) if count else math.nan


QUANTILE_LOSS = Metric(
    "quantile_loss",
    "min",
    "Quantile loss",
    "Twice the mean pinball loss over eight quantiles, by the sum of the units (WQL): right only if the whole "
    "distribution is.",
    compute=quantile_loss,
)
RMSSE = Metric(
    "rmsse",
    "min",
    "RMSSE",
    "Root mean squared error of the mean forecast, in multiples of that of forecasting each period by the one before; "
    "the mean over series.",
)
METRICS = (
    QUANTILE_LOSS,
    RMSSE,
    Metric(
        "pooled_rmsse",
        "min",
        "Pooled RMSSE",
        "Root of the mean over series of the squared scaled errors: unlike the mean of the roots, no forecast of zero "
        "wins on it where half of the series happen to sell nothing.",
        compute=pooled_rmsse,
    ),
    Metric(
        "wape", "min", "WAPE", "Sum of the absolute errors of the mean forecast, by the sum of the units.", compute=wape
    ),
    Metric("median_loss", "min", "QL(0.5)", "Mean pinball loss of the median, in units; zero is hard to beat on it."),
    Metric("rmse_of_sales", "min", "RMSE of sales", "Error of the mean in periods with sales.", compute=rmse_of_sales),
    Metric(
        "coverage_gap",
        "min",
        "Coverage gap",
        "Distance from 0.9 of the share of periods inside the 90 % interval.",
        compute=coverage_gap,
    ),
    Metric(
        "absolute_bias",
        "min",
        "Absolute bias",
        "How far the sum of the mean forecasts is from the sum of the units, by the latter.",
        compute=absolute_bias,
    ),
)


def measured(found: Answers, batch: Windows) -> BatchMetrics:
    """The metrics of a batch; periods where stock ran out do not count, since demand is not known there."""
    is_known = (batch.target_status == KNOWN).cpu().numpy()
    target, count = batch.target.double().cpu().numpy(), is_known.sum(1)
    scale = batch.naive_scale.double().cpu().numpy()
    mean, quantiles = found.distribution.mean, found.quantiles
    error = np.where(is_known, mean - target, 0.0)
    units = np.where(is_known, target, 0.0).sum(1)
    gap = np.where(is_known[..., None], target[..., None] - quantiles, 0.0)
    levels = np.array(QUANTILES)
    pinball = np.maximum(levels * gap, (levels - 1) * gap)
    is_scaled = (scale > 0) & (count > 0)
    rmsse = np.sqrt((error**2).sum(1) / np.maximum(count, 1) / np.where(is_scaled, scale, 1.0))
    inside = is_known & (target >= found.interval[..., 0]) & (target <= found.interval[..., 1])
    sold = is_known & (target > 0)
    ratios = {
        "rmsse": (rmsse * is_scaled, is_scaled),
        "median_loss": (pinball[..., MEDIAN].sum(1), count),
    }
    kept = {
        "squared_sold": (error**2 * sold).sum(1),
        "num_sold": sold.sum(1),
        "scaled_squared": rmsse**2 * is_scaled,
        "is_scaled": is_scaled,
        "num_inside": inside.sum(1),
        "error": error.sum(1),
        "absolute_error": np.abs(error).sum(1),
        "pinball": pinball.mean(-1).sum(1),
        "units": units,
        "num_known": count,
    }
    return BatchMetrics(
        {name: Ratio(_tensor(above), _tensor(below)) for name, (above, below) in ratios.items()},
        kept={name: _tensor(values) for name, values in kept.items()},
    )


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))
