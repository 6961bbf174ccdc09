"""Metrics of the whole split: how much of the catalogue is recommended, and how evenly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.metrics import gini
from models.recommender.schema import Schema


def summarise(accumulators: Mapping[str, Tensor], schema: Schema) -> dict[str, float]:
    """Coverage, Gini and the tail's share of the recommendations; the tail is that of slices.py."""
    recommended = accumulators["recommended"][1:]
    counts = torch.tensor(schema.item_counts, dtype=torch.float64)
    order = counts.argsort(descending=True, stable=True)
    tail = order[(counts[order].cumsum(0) / counts.sum().clamp_min(1)) > 0.9]
    return {
        "coverage_at_10": float((recommended > 0).double().mean()),
        "gini_at_10": gini(recommended),
        "tail_share_at_10": float(recommended[tail.to(recommended.device)].sum() / recommended.sum().clamp_min(1)),
    }
