"""The training configuration of the reviews family, its baselines, and the search space of its sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, GradNorm, LogUniform, Range, TrainConfig
from models.settings import Share

FITTED_NETWORKS = ("linear", "naive-bayes", "majority")
"""Networks that are fitted before training, and not trained."""


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train the sentiment of reviews."""

    network: Literal["wide-deep", "wide", "deep", "encoder", "linear", "naive-bayes", "majority"] = "wide-deep"
    """Network: wide-deep learns with a deep network what a linear model of n-grams leaves over; wide is a linear model
    that starts from naive Bayes (NB-SVM), deep a network of characters alone, encoder is wide-deep with a
    pretrained encoder (see --pretrained) as its deep part. The others are baselines: logistic regression on n-grams
    (linear), naive-bayes, and the majority class."""
    encoder: Literal["cnn", "rnn", "attention"] = "cnn"
    """What reads the characters in a deep network: convolutions (Kim, 2014), a bidirectional GRU, or blocks of
    convolutions and gated attention."""
    pretrained: str = ""
    """Local folder of a pretrained encoder in Hugging Face's format, such as a BERT: config.json, model.safetensors and
    tokenizer.json or vocab.txt. It is stored in the model. Nothing is downloaded."""
    pooling: Literal["mean", "cls"] = "mean"
    """What a pretrained encoder says of a text: the mean of its states, or the first (cls)."""
    epochs: PositiveInt = 5
    """Maximum number of epochs."""
    batch_size: PositiveInt = 128
    """Training texts per optimizer step, over all workers."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate, reached after the warm-up and followed by cosine decay to a hundredth of it."""
    max_grad_norm: GradNorm = 5.0
    """Gradient clipping: the largest norm of the gradients."""
    patience: NonNegativeInt = 2
    """Early stopping: stop after this many epochs in a row without a better validation score; 0 never stops early."""
    num_buckets: Annotated[int, Field(ge=256, le=1 << 24)] = 1 << 20
    """Buckets that n-grams are hashed to; a power of two is usual."""
    penalty: PositiveFloat = 1e-5
    """L2 penalty of a wide network's weights, for each n-gram of a text."""
    dim: PositiveInt = 96
    """Width of a deep network."""
    num_blocks: PositiveInt = 2
    """Blocks of an attention encoder, and layers of an rnn."""
    dropout: Share = 0.3
    """Dropout of a deep network."""
    pretrain_epochs: NonNegativeInt = 0
    """First ones of the epochs in which a deep network learns no sentiment, but which characters of a text were
    replaced by plausible ones, from training texts and those without a class; so far it cost accuracy, see
    docs/log.md."""
    term_members: NonNegativeInt = 1
    """Networks of aspect terms, where labelled aspects were prepared: convolutions whose polarities are averaged; 0
    trains no such networks."""
    confident_accuracy: Annotated[float, Field(gt=0.5, lt=1)] = 0.98
    """The accuracy that answers which are not marked as unsure should have."""


SPACE: dict[str, Range] = {
    "learning_rate": LogUniform(3e-4, 4e-3),
    "encoder": Choice(("cnn", "rnn", "attention")),
    "dim": Choice((64, 96, 128)),
    "dropout": Choice((0.1, 0.3, 0.5)),
}

BASELINES = {
    "majority": Config(network="majority", term_members=0),
    "naive Bayes": Config(network="naive-bayes", term_members=0),
    "linear": Config(network="linear", term_members=0),
}


def pretraining_epochs(config: Config) -> int:
    """The first epochs that pretrain; none for a network without a deep part."""
    return config.pretrain_epochs if config.network in ("deep", "wide-deep") else 0


_DEEP = ("encoder", "dim", "num_blocks", "dropout", "pretrain_epochs")
_PRETRAINED = ("pretrained", "pooling")
_TRAINED = ("epochs", "batch_size", "learning_rate", "warmup_fraction", "weight_decay", "max_grad_norm", "patience")
UNUSED_SETTINGS: dict[str, tuple[str, ...]] = {
    "wide-deep": ("penalty", *_PRETRAINED),
    "deep": ("penalty", "num_buckets", *_PRETRAINED),
    "encoder": ("penalty", "encoder", "dim", "num_blocks", "pretrain_epochs"),
    "wide": (*_DEEP, *_PRETRAINED),
    **dict.fromkeys(FITTED_NETWORKS, (*_DEEP, *_PRETRAINED, *_TRAINED, "penalty")),
}
"""Network -> settings that have no effect on it."""
