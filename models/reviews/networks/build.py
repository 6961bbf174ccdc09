"""Builds the network that a Config selects, and the hooks of the family."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.metrics import BatchMetrics
from models.prepared import Prepared
from models.reviews.config import FITTED_NETWORKS, Config, pretraining_epochs
from models.reviews.data import Reviews
from models.reviews.networks.sentiment import Prediction, Sentiment
from models.reviews.schema import Schema


def build(config: Config, schema: Schema) -> Sentiment:
    """An untrained network."""
    network = Sentiment(config, schema)
    if config.network in FITTED_NETWORKS:
        for parameter in network.parameters():
            parameter.requires_grad_(False)
    return network


def resolve(config: Config, schema: Schema) -> Config:
    """The config itself; ValueError for one whose epochs all pretrain, or whose encoder is not given."""
    if bool(config.pretrained) != (config.network == "encoder"):
        raise ValueError(
            f"--pretrained is {config.pretrained!r} and --network {config.network}; a pretrained encoder takes both "
            "--network encoder and --pretrained FOLDER"
        )
    if config.pretrain_epochs and pretraining_epochs(config) >= config.epochs:
        raise ValueError(
            f"--pretrain-epochs {config.pretrain_epochs} are the first ones of --epochs {config.epochs}, and none is "
            "left to learn sentiment; raise --epochs"
        )
    return config


def initialise(network: Sentiment, data: Prepared, schema: Schema) -> None:
    """Fit what is not trained by gradients: linear models, naive Bayes ratios, the characters that follow others."""
    network.fit(data, schema)


def loss(network: Sentiment, batch: Reviews) -> Tensor:
    """The loss of a training batch."""
    return network.loss(batch)


def evaluate(network: Sentiment, batch: Reviews) -> BatchMetrics:
    """Metrics of a batch of held-out texts."""
    return network.evaluate(batch)


def predict(network: Sentiment, batch: Reviews) -> Sequence[Prediction]:
    """The sentiment of each text."""
    return network.predict(batch)
