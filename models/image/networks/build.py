"""Builds the network that a Config selects, and the hooks of the family that dispatch on it."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from models.image.config import Config
from models.image.data import Batch
from models.image.networks import classifier, gan
from models.image.networks.autoencoder import Autoencoder, fit_statistics
from models.image.networks.classifier import Classifier, Prediction
from models.image.networks.gan import Gan
from models.image.schema import Schema
from models.metrics import BatchMetrics
from models.prepared import Prepared

Network = Classifier | Autoencoder | Gan


def build(config: Config, schema: Schema) -> Network:
    """An untrained network; raises ValueError for settings that contradict each other or do not fit the image size."""
    if bool(config.backbone) != (config.network == "backbone"):
        raise ValueError(
            f"--backbone is {config.backbone!r} and --network {config.network}; a pretrained backbone "
            "takes both --network backbone and --backbone PATH"
        )
    for name, distance in (("--shift", config.shift), ("--test-shift", config.test_shift)):
        if distance >= schema.size:
            raise ValueError(f"{name} is {distance}, but the images have a side of {schema.size}; use a smaller shift")
    if config.network == "autoencoder":
        return Autoencoder(config, schema)
    if config.network == "gan":
        return gan.build(config, schema)
    return classifier.build(config, schema)


def initialise(network: Network, data: Prepared, schema: Schema) -> None:
    """Fit what is learned from training images without gradient descent."""
    if isinstance(network, Autoencoder):
        fit_statistics(network, data, schema)
    elif isinstance(network, Classifier):
        classifier.initialise(network, data, schema)


def update_statistics(network: Network, data: Prepared, schema: Schema) -> None:
    """Re-estimate batch-norm statistics on unaugmented training images (precise BN)."""
    if isinstance(network, Classifier):
        classifier.update_statistics(network, data, schema)


def loss(network: Network, batch: Batch) -> Tensor:
    """The loss on a training batch."""
    return network.forward(batch)


def evaluate(network: Network, batch: Batch) -> BatchMetrics:
    """Metrics on a batch of held-out images."""
    return network.evaluate(batch)


def calibration(network: Network, batch: Batch) -> Tensor | None:
    """Sums over a validation batch for `calibrate`."""
    return network.calibration(batch)


def calibrate(network: Network, sums: Tensor) -> None:
    """Calibrate the network, given the sums over the validation split."""
    network.calibrate(sums)


def optimizer(network: Network) -> Optimizer | None:
    """Muon for a resnet, AdamW with two learning rates for a gan; None selects the training loop's default."""
    return None if isinstance(network, Autoencoder) else network.optimizer()


def predict(network: Network, batch: Batch) -> list[Prediction]:
    """Class probabilities, embedding and the optional parts of each image's prediction."""
    return network.predict(batch)
