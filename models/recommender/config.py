"""The recommender's training configuration and the ranges that sweeps search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, LogUniform, Range, TrainConfig, Uniform
from models.plugins import network_names

NETWORKS = ("transformer", "gru", "two_tower", "autoencoder", "gan", "transitions", "popularity", "item_knn")
if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[network_names("recommender", NETWORKS)]


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train a recommender."""

    network: NetworkName = "transformer"
    """What learns. transformer, gru and two_tower go by the order of events; autoencoder and gan by what was taken, in
    any order; transitions is counted in seconds; the last two are baselines."""
    epochs: PositiveInt = 20
    """Passes over the training split at the most."""
    patience: NonNegativeInt = 12
    """Stop after so many epochs in a row without a better validation score; 0 never stops early. The gain comes late,
    when the learning rate falls."""
    learning_rate: PositiveFloat = 2e-3
    """Highest learning rate, reached after the warm-up, then lowered along a cosine to a hundredth of it."""
    batch_size: PositiveInt = 32
    """Rows of max_length events in one optimiser step, over all workers together."""
    max_length: PositiveInt = 200
    """Events of a row in training and of a shopper's history in prediction; older ones are cut off."""
    dim: PositiveInt = 64
    """Width of item embeddings and hidden states."""
    num_blocks: PositiveInt = 2
    """Blocks of a transformer, layers of a gru."""
    num_heads: PositiveInt = 1
    """Attention heads of a transformer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of activations set to zero in training."""
    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell of the gru network."""
    loss: Literal["auto", "full", "sampled"] = "auto"
    """Cross-entropy over all items or over shared negatives; auto is full up to 20,000 items. For transformer, gru and
    two_tower."""
    num_negatives: PositiveInt = 4096
    """Negatives drawn by popularity in each step of the sampled loss, beside the targets of the batch."""
    blend: bool = True
    """Blend a trained network with the transitions prior, at the weight that is best on validation."""
    spectral_start: bool = True
    """Start item embeddings from the singular vectors of the transitions instead of at random."""


SPACE: dict[str, Range] = {
    "network": Choice(("transformer", "gru", "two_tower", "autoencoder", "gan", "transitions")),
    "learning_rate": LogUniform(1e-3, 8e-3),
    "dropout": Uniform(0.05, 0.4),
    "dim": Choice((32, 64, 96)),
    "num_blocks": Choice((1, 2)),
}

BASELINES = {name: Config(network=name) for name in ("popularity", "item_knn")}
