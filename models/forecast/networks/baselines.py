"""Baselines: simple forecasts, with a negative binomial distribution whose variance is that of the history."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.forecast.config import Config
from models.forecast.data import Windows
from models.forecast.networks.simple import NAMES, croston_level, seasonal_naive
from models.forecast.networks.tree import Trees
from models.forecast.schema import KNOWN, Schema


class Baseline(nn.Module):
    """A forecast without training by gradients; `tree` is fitted in `initialise`."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.name, self.season = config.network, schema.season
        self.trees = Trees(schema) if config.network == "tree" else None

    def forward(self, batch: Windows, simple: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the dispersion [B, H], given the simple forecasts [B, H, NAMES]."""
        mean = self._mean(batch, simple).float().clamp_min(0)
        known = (batch.status == KNOWN).float()
        count = known.sum(1).clamp_min(1)
        average = (batch.units * known).sum(1) / count
        variance = ((batch.units - average[:, None]) ** 2 * known).sum(1) / count
        dispersion = average**2 / (variance - average).clamp_min(1e-6)
        return mean, dispersion.clamp(1e-2, 1e4)[:, None].expand_as(mean)

    def _mean(self, batch: Windows, simple: Tensor) -> Tensor:
        known = (batch.status == KNOWN).to(batch.units.dtype)
        match self.name:
            case "zero":
                return torch.zeros_like(batch.target)
            case "seasonal-naive":
                return seasonal_naive(batch, self.season)
            case "moving-average":
                return simple[..., NAMES.index("last season")]
            case "ets":
                return simple[..., NAMES.index("ets")]
            case "tree":
                assert self.trees is not None
                found: Tensor = self.trees(batch, simple)
                return found
            case "croston":
                return croston_level(batch.units, known)[:, None].expand_as(batch.target)
            case _:
                return simple[..., NAMES.index("tsb")]
