"""Picks the network that a Config names and starts it."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from models.image.config import Config
from models.image.data import Batch
from models.image.networks import classifier as recognisers
from models.image.networks import gan
from models.image.networks.autoencoder import Autoencoder, fit_statistics
from models.image.networks.classifier import Recogniser, Recognition
from models.image.networks.gan import Gan
from models.image.schema import Schema
from models.image.similarity_index import Comparison, compare
from models.metrics import BatchMetrics
from models.prepared import Prepared

Network = Recogniser | Autoencoder | Gan


def build(config: Config, schema: Schema) -> Network:
    """An untrained network; raises ValueError for an unknown one or pictures too small for it or its settings."""
    if bool(config.backbone) != (config.network == "backbone"):
        raise ValueError(
            f"--backbone is {config.backbone!r} and --network {config.network}; a network that is read from a file "
            "takes both --network backbone and --backbone PATH"
        )
    for name, distance in (("--shift", config.shift), ("--test-shift", config.test_shift)):
        if distance >= schema.size:
            raise ValueError(f"{name} is {distance}, but the pictures have a side of {schema.size}; move them by less")
    if config.network == "autoencoder":
        return Autoencoder(config, schema)
    if config.network == "gan":
        return gan.build(config, schema)
    return recognisers.build(config, schema)


def initialise(network: Network, data: Prepared, schema: Schema) -> None:
    """Set what is learnt from training pictures without gradients."""
    if isinstance(network, Autoencoder):
        fit_statistics(network, data, schema)
    elif isinstance(network, Recogniser):
        recognisers.initialise(network, data, schema)


def update_statistics(network: Network, data: Prepared, schema: Schema) -> None:
    """Re-estimate batch-norm statistics from training pictures as they are."""
    if isinstance(network, Recogniser):
        recognisers.update_statistics(network, data, schema)


def loss(network: Network, batch: Batch) -> Tensor:
    """The network's loss of a training batch."""
    return network.forward(batch)


def evaluate(network: Network, batch: Batch) -> BatchMetrics:
    """What the network scores on held-out pictures."""
    return network.evaluate(batch)


def calibration(network: Network, batch: Batch) -> Tensor | None:
    """Sums over a validation batch from which the network chooses its temperatures."""
    return network.calibration(batch)


def calibrate(network: Network, sums: Tensor) -> None:
    """Let the network choose, given the sums over the validation split."""
    network.calibrate(sums)


def optimizer(network: Network) -> Optimizer | None:
    """Muon for a resnet, two rates for a gan, AdamW for all others."""
    return None if isinstance(network, Autoencoder) else network.optimizer()


def predict(network: Network, batch: Batch) -> list[Recognition]:
    """What each picture shows."""
    return network.predict(batch)


def predict_similar(network: Network, batch: Batch) -> list[Comparison]:
    """The products that look most like each picture; none where the network was given no index."""
    return compare(network, batch)
