"""The training configuration of the forecast family, its baselines, and the search space of its sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, LogUniform, Range, TrainConfig
from models.settings import Share

BASELINE_NETWORKS = ("zero", "seasonal-naive", "moving-average", "tsb", "croston", "ets", "tree")

MAX_CONTEXT = 400
"""Periods of history that a request brings to a network, of which it takes the last ones."""


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train a forecast."""

    network: Literal["tide", "rnn", "zero", "seasonal-naive", "moving-average", "tsb", "croston", "ets", "tree"] = (
        "tide"
    )
    """Network: tide is a residual MLP over the history and what is known ahead, rnn a GRU over the same; the others are
    baselines: zero, the last season again, the mean of the last season, TSB and Croston for rare demand, exponential
    smoothing with a season (ets), and gradient-boosted trees on lags (tree)."""
    epochs: PositiveInt = 12
    """Maximum number of epochs."""
    batch_size: PositiveInt = 256
    """Training windows per optimizer step, over all workers."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate, reached after the warm-up and followed by cosine decay to a hundredth of it."""
    patience: NonNegativeInt = 4
    """Early stopping: stop after this many epochs in a row without a better validation score; 0 never stops early."""
    head: Literal["auto", "count", "quantile"] = "auto"
    """What is learned of demand: count is a negative binomial distribution, quantile the quantiles themselves and the
    mean; auto is count where all units are whole numbers."""
    context: Annotated[int, Field(ge=0, le=MAX_CONTEXT)] = 0
    """Periods of history that a forecast sees; 0 is by the data: 84 days, 104 weeks or 24 months, or what there is."""
    dim: PositiveInt = 64
    """Width of the hidden layers."""
    num_blocks: PositiveInt = 2
    """Residual blocks of tide's encoder, and layers of an rnn."""
    dropout: Share = 0.2
    """Dropout."""
    windows_per_epoch: PositiveInt = 20_000
    """Training windows of an epoch, at most: every n-th of each series, others in each epoch."""
    blend: bool = True
    """Whether the mean is mixed with those of trees and simple forecasts: of a third each of the network, trees and
    exponential smoothing, or as validation chooses for a class of demand."""


SPACE: dict[str, Range] = {
    "learning_rate": LogUniform(5e-4, 8e-3),
    "dim": Choice((32, 64, 128)),
    "dropout": Choice((0.0, 0.1, 0.2)),
}

BASELINES = {
    "zero": Config(network="zero", blend=False),
    "seasonal naive": Config(network="seasonal-naive", blend=False),
    "moving average": Config(network="moving-average", blend=False),
    "tsb": Config(network="tsb", blend=False),
    "croston": Config(network="croston", blend=False),
    "ets": Config(network="ets", blend=False),
    "tree": Config(network="tree", blend=False),
}
"""Zero is the trivial one: whoever forecasts it orders nothing."""

_FITTED = (
    "epochs",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "head",
    "dim",
    "num_blocks",
    "dropout",
    "windows_per_epoch",
)
UNUSED_SETTINGS: dict[str, tuple[str, ...]] = dict.fromkeys(BASELINE_NETWORKS, _FITTED)
"""Network -> settings that have no effect on it."""
