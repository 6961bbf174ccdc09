"""Builds the forecaster that a Config selects, and the hooks of the family that dispatch on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from models.forecast.config import BASELINE_NETWORKS, MAX_CONTEXT, Config
from models.forecast.data import Windows, collate, dataset
from models.forecast.networks.answers import Forecast
from models.forecast.networks.baselines import Baseline
from models.forecast.networks.forecaster import Forecaster
from models.forecast.schema import Schema
from models.metrics import BatchMetrics
from models.prepared import Prepared

CONTEXTS = {"day": 84, "week": 104, "month": 24, "number": 52}
MAX_TREE_WINDOWS = 8_000


def resolve(config: Config, schema: Schema) -> Config:
    """The config with a head and a length of history."""
    longest = max(schema.train_end - schema.horizon, 1)
    if config.context:
        context = config.context
    elif config.network in BASELINE_NETWORKS and config.network != "tree":
        context = min(MAX_CONTEXT, schema.train_end)
    else:
        context = min(CONTEXTS[schema.period], longest)
    head = config.head
    if head == "auto":
        head = "count" if schema.is_count else "quantile"
    return dataclasses.replace(config, context=context, head=head)


def build(config: Config, schema: Schema) -> Forecaster:
    """An untrained forecaster."""
    return Forecaster(resolve(config, schema), schema)


def initialise(network: Forecaster, data: Prepared, schema: Schema) -> None:
    """Fit the trees of the baseline `tree`, or of a blend, to training windows."""
    trees = network.forecast.trees if isinstance(network.forecast, Baseline) else network.trees
    if trees is None:
        return
    config = resolve(Config(network="tree", windows_per_epoch=MAX_TREE_WINDOWS), schema)
    windows = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=0)
    trees.fit(
        [
            collate([windows[int(row)] for row in rows])
            for rows in np.array_split(np.arange(len(windows)), max(1, len(windows) // 512))
        ]
    )


def loss(network: Forecaster, batch: Windows) -> Tensor:
    """The loss of a training batch."""
    return network.loss(batch)


def evaluate(network: Forecaster, batch: Windows) -> BatchMetrics:
    """Metrics of a batch of held-out windows."""
    return network.evaluate(batch)


def predict(network: Forecaster, batch: Windows) -> Sequence[Forecast]:
    """The forecast of each window."""
    return network.predict(batch)
