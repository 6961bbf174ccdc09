"""The recommender's training configuration and the ranges that sweeps search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, LogUniform, Range, TrainConfig, Uniform
from models.plugins import network_names

NETWORKS = ("transformer", "gru", "two_tower", "autoencoder", "gan", "transitions", "popularity", "item_knn")
if TYPE_CHECKING:
    # What networks and the training loop are given: no setting is at auto any more.
    NetworkName = str
    AutoInt = int
    AutoRate = float
    AutoShare = float
else:
    AutoInt = PositiveInt | Literal["auto"]
    AutoRate = PositiveFloat | Literal["auto"]
    AutoShare = Annotated[float, Field(ge=0, lt=1)] | Literal["auto"]
    NetworkName = Literal[network_names("recommender", NETWORKS)]

AUTO: Any = "auto"
"""Chosen by the log when a run begins; see auto_settings."""


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train a recommender."""

    network: NetworkName = "transformer"
    """Network to train. transformer, gru and two_tower model the sequence of events; autoencoder and gan the unordered
    bag of items; transitions is count-based and takes seconds; popularity and item_knn are baselines."""
    epochs: PositiveInt = 20
    """Maximum number of epochs."""
    patience: NonNegativeInt = 12
    """Early stopping: stop after this many epochs in a row without a better validation score; 0 never stops early. Much
    of the gain comes late, when the learning rate decays."""
    learning_rate: AutoRate = AUTO
    """Peak learning rate, reached after the warm-up and followed by cosine decay to a hundredth of it. auto: 0.002, or
    0.003 for a log of under 50 events per item."""
    batch_size: AutoInt = AUTO
    """Rows of max_length events per optimizer step, over all workers. auto: 6,400 events, fewer for a small log."""
    max_length: AutoInt = AUTO
    """Events per training row, and of a user's history in prediction; older events are truncated. auto: 50, 100 or 200,
    to hold nine histories in ten."""
    dim: PositiveInt = 64
    """Width of item embeddings and hidden states."""
    num_blocks: PositiveInt = 2
    """Transformer blocks, or layers of the gru or of the two_tower head."""
    num_heads: PositiveInt = 1
    """Attention heads of the transformer."""
    dropout: AutoShare = AUTO
    """Dropout probability. auto: 0.4 for a log of under 50 events per item, 0.3 under 200, else 0.2."""
    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell of the gru network."""
    loss: Literal["auto", "full", "sampled"] = "auto"
    """Cross-entropy over all items (full) or over sampled negatives that a batch shares; auto is full up to 20,000
    items. For transformer, gru and two_tower."""
    num_negatives: PositiveInt = 4096
    """Negatives of the sampled loss per step, drawn by popularity, in addition to the targets of the batch."""
    weights: str = ""
    """How much events count in training by their type, e.g. view=1,addtocart=3,purchase=10; 1 for types that are not
    named. By default rare targets count more: the root of how much rarer they are than other events, at most 10. The
    transitions also try equal weights and targets only, on validation."""
    blend: bool = True
    """Blend the trained network with the transitions prior, with the weight that is best on validation."""
    spectral_start: bool = True
    """Initialise item embeddings with singular vectors of the transitions instead of at random."""


SPACE: dict[str, Range] = {
    "network": Choice(("transformer", "gru", "two_tower", "autoencoder", "gan", "transitions")),
    "learning_rate": LogUniform(1e-3, 8e-3),
    "dropout": Uniform(0.05, 0.4),
    "dim": Choice((32, 64, 96)),
    "num_blocks": Choice((1, 2)),
}

BASELINES = {name: Config(network=name) for name in ("popularity", "item_knn", "transitions")}

_TRAINING = (
    "epochs",
    "batch_size",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "dim",
    "dropout",
    "blend",
    "spectral_start",
)
_SEQUENTIAL = ("num_blocks", "num_heads", "cell", "loss", "num_negatives")
UNUSED_SETTINGS: dict[str, tuple[str, ...]] = {
    "transformer": ("cell",),
    "gru": ("num_heads",),
    "two_tower": ("num_heads", "cell"),
    "autoencoder": _SEQUENTIAL,
    "gan": _SEQUENTIAL,
    **dict.fromkeys(("transitions", "popularity"), (*_TRAINING, *_SEQUENTIAL)),
    "item_knn": (*_TRAINING, *_SEQUENTIAL, "weights"),
}
"""Network -> settings that have no effect on it."""
