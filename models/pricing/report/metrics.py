"""The pricing family's metrics: what each measures, and how it is computed from a batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from models.metrics import BatchMetrics, Kept, Metric, Ratio
from models.pricing.demand import MAX_LOG

if TYPE_CHECKING:
    from models.pricing.data import SalesBatch
    from models.pricing.networks.price_model import PriceModel

STEPS = (-0.2, -0.05, 0.0, 0.05, 0.2)
"""Changes of the own log price between which demand may not rise."""
TOLERANCE = 1e-4
"""Of log demand: what rounding in single precision may add."""


def wape(kept: Kept) -> float:
    """The absolute errors of units, by the units; NaN without units."""
    units = float(kept["units"].sum())
    return float(np.abs(kept["units"] - kept["predicted"]).sum()) / units if units else math.nan


def bias(kept: Kept) -> float:
    """How far the sum of expected units is from that of the units, by the latter; NaN without units."""
    units = float(kept["units"].sum())
    return abs(float(kept["expected"].sum()) / units - 1) if units else math.nan


def r2(kept: Kept) -> float:
    """The share of the variance of log units that is explained; NaN where they do not vary."""
    target = kept["log_units"]
    total = float(np.square(target - target.mean()).sum()) if len(target) else 0.0
    return 1 - float(np.square(target - kept["log_predicted"]).sum()) / total if total > 0 else math.nan


WAPE = Metric(
    "wape",
    "min",
    "WAPE",
    "Sum of the absolute errors of units one period ahead, at the prices that were asked, by the sum of the units.",
    compute=wape,
)
METRICS = (
    WAPE,
    Metric("r2", "max", "R2", "Share of the variance of log units that is explained, one period ahead.", compute=r2),
    Metric(
        "rising",
        "min",
        "Rising demand",
        "Share of rows whose expected demand rises anywhere while their own price goes from -20 % to +20 %: 0.",
    ),
    Metric(
        "absolute_bias",
        "min",
        "Absolute bias",
        "How far the sum of the expected units is from the sum of the units, by the latter.",
        compute=bias,
    ),
)


def measured(network: PriceModel, batch: SalesBatch) -> BatchMetrics:
    """The metrics of a batch; rows in which all stock was sold are not in it, since their demand is not known."""
    design = batch.design(network.schema)
    by_member = [network.member_logs(design.at(design.own + step)) for step in STEPS]
    curve = np.stack([logs.mean(0) for logs in by_member])
    rises = np.asarray((np.diff(curve, axis=0) > TOLERANCE).any(0))
    today = STEPS.index(0.0)
    logs = np.minimum(curve[today], MAX_LOG)
    kept = {
        "units": design.units,
        "predicted": np.exp(logs),
        "expected": network.expected(by_member[today], design.product),
        "log_units": design.log_units,
        "log_predicted": logs,
    }
    ratio = Ratio(_tensor(rises), torch.ones(len(rises), dtype=torch.float64))
    return BatchMetrics({"rising": ratio}, kept={name: _tensor(values) for name, values in kept.items()})


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))
