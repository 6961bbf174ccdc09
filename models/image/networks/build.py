"""Picks the network that a Config names and starts it."""

from __future__ import annotations

from pathlib import Path

from models.image.config import Config
from models.image.networks import classifier as recognisers
from models.image.networks import gan
from models.image.networks.autoencoder import Autoencoder, fit_statistics
from models.image.networks.classifier import Recogniser
from models.image.networks.gan import Gan
from models.image.schema import Schema


def build(config: Config, schema: Schema) -> Recogniser | Autoencoder | Gan:
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


def initialise(network: Recogniser | Autoencoder | Gan, data: Path, schema: Schema) -> None:
    """Set what is learnt from training pictures without gradients."""
    if isinstance(network, Autoencoder):
        fit_statistics(network, data, schema)
    elif isinstance(network, Recogniser):
        recognisers.initialise(network, data, schema)


def settle(network: Recogniser | Autoencoder | Gan, data: Path, schema: Schema) -> None:
    """Set what follows from the weights; see models.family.HasStatistics."""
    if isinstance(network, Recogniser):
        recognisers.settle(network, data, schema)
