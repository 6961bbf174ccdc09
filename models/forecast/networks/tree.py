"""Gradient-boosted trees on lags as a baseline: fitted by scikit-learn, stored and evaluated as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.forecast.data import Windows
from models.forecast.networks.simple import levels, seasonal_naive, simple_forecasts
from models.forecast.schema import KNOWN, Schema
from models.nn.stored_trees import StoredTrees

NUM_LAGS = 7
MAX_TREES, MAX_NODES, MAX_DEPTH = 150, 63, 6
MAX_ROWS = 150_000
SETTINGS: dict[str, Any] = {
    "loss": "poisson",
    "learning_rate": 0.06,
    "max_iter": MAX_TREES,
    "max_leaf_nodes": 31,
    "max_depth": MAX_DEPTH,
    "min_samples_leaf": 40,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}


class Trees(StoredTrees):
    """The sum of regression trees, in multiples of a series' level; each period of the horizon is a row."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(MAX_TREES, MAX_NODES, MAX_DEPTH)
        self.unit, self.season = schema.unit, schema.season

    def forward(self, batch: Windows, simple: Tensor) -> Tensor:
        """The mean [B, H], given the simple forecasts [B, H, NAMES]."""
        rows = self.rows(batch, simple)
        scaled = self.sums(rows.flatten(0, 1)).clamp(max=8).exp().reshape(rows.shape[:2])
        return (levels(batch, self.unit)[:, None] * scaled).float()

    def rows(self, batch: Windows, simple: Tensor) -> Tensor:
        """The features of each period of each window [B, H, features]."""
        horizon = batch.target.shape[1]
        level = levels(batch, self.unit)
        known = (batch.status == KNOWN).float()
        lags = min(NUM_LAGS, batch.units.shape[1])
        of_window = [
            (batch.units / level[:, None])[:, -lags:],
            torch.log(level / self.unit)[:, None],
            known.sum(1, keepdim=True),
            ((batch.units > 0).float() * known)[:, -4 * lags :].mean(1, keepdim=True),
            batch.static.float(),
            batch.demand[:, None].float(),
        ]
        wide = torch.cat(of_window, 1)[:, None].expand(-1, horizon, -1)
        step = torch.arange(horizon, device=level.device).float()[None, :, None].expand(len(level), -1, 1)
        scaled = simple / level[:, None, None]
        naive = (seasonal_naive(batch, self.season) / level[:, None])[..., None]
        return torch.cat([wide, step, scaled, naive, batch.known[:, -horizon:].float()], -1)

    def fit(self, batches: Sequence[Windows]) -> None:
        """Fit the trees to the known periods of training windows."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        features, targets = [], []
        for batch in batches:
            is_known = batch.target_status == KNOWN
            features.append(self.rows(batch, simple_forecasts(batch, self.season))[is_known].double().numpy())
            targets.append((batch.target / levels(batch, self.unit)[:, None])[is_known].double().numpy())
        x, y = np.concatenate(features), np.concatenate(targets)
        if not (y > 0).any():
            return
        if len(y) > MAX_ROWS:
            chosen = np.random.default_rng(0).choice(len(y), MAX_ROWS, replace=False)
            x, y = x[np.sort(chosen)], y[np.sort(chosen)]
        model: Any = HistGradientBoostingRegressor(**SETTINGS).fit(x, y)
        self.store(model)
