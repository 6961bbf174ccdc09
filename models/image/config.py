"""How to train an image network, and the ranges that sweeps search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, LogUniform, Range, TrainConfig
from models.plugins import network_names
from models.settings import Share

NETWORKS = ("resnet", "cnn", "backbone", "autoencoder", "gan", "linear", "prior")
if TYPE_CHECKING:
    NetworkName = str
else:
    NetworkName = Literal[network_names("image", NETWORKS)]


@dataclass(frozen=True)
class Config(TrainConfig):
    """How to train an image network."""

    network: NetworkName = "resnet"
    """What learns. resnet is the accurate one; cnn is the small network of the tutorials; of a backbone, trained
    elsewhere, only the heads learn; autoencoder learns without labels what pictures look like, for look-alikes and for
    pictures unlike all others; gan makes pictures of each class of the first label; linear (principal components and
    logistic regression) and prior (class frequencies) are baselines."""
    epochs: PositiveInt = 12
    """Passes over the training split at the most."""
    batch_size: PositiveInt = 500
    """Training pictures in one optimiser step, over all workers together."""
    learning_rate: PositiveFloat = 6e-3
    """Highest learning rate, reached after the warm-up, then lowered along a cosine to a hundredth of it. A resnet's
    filters move by seventeen times as much of their own size."""
    warmup_fraction: Share = 0.05
    """Share of all steps in which the learning rate rises from zero."""
    max_grad_norm: PositiveFloat = 10.0
    """Gradients are scaled down to this norm."""
    patience: NonNegativeInt = 0
    """Stop after so many epochs in a row without a better validation score; 0 never stops early. The gain comes late,
    when the learning rate falls."""
    width: PositiveFloat = 1.0
    """Factor on the filters of each layer of a resnet, cnn, autoencoder or gan."""
    backbone: str = ""
    """Local safetensors file with the weights of a backbone, named as in torchvision; they go into the model."""
    architecture: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """What the backbone's file holds."""
    num_convolutions: Literal[2, 3] = 2
    """Convolutions of each of the three groups of a resnet; with three the signal also passes around two of them."""
    label_smoothing: Share = 0.1
    """Share of the target that is spread over all classes in training."""
    flip: bool = True
    """Mirror pictures left to right, in turns in training, and average over both sides in prediction."""
    shift: NonNegativeInt = 2
    """Training pictures are moved by up to so many pixels along each axis."""
    test_shift: NonNegativeInt = 0
    """A prediction is also made of the picture moved by so many pixels up and left, and down and right, and averaged: a
    little more accurate, three times as slow. 0 moves none."""
    cut_out: NonNegativeInt = 0
    """Side of the square of each training picture that is blanked out, in pixels."""
    mixup: NonNegativeFloat = 0.0
    """How strongly training pictures and their labels are blended in pairs: the parameter of the beta distribution that
    the shares are drawn from. 0.4 helps a few thousand pictures over many epochs; 0 blends none."""
    balance: Share | None = None
    """How far training evens out the classes of the first label: at 0 every picture is seen once an epoch, at 1 every
    class equally often, so that pictures of a rare one are seen many times and some of a frequent one not at all. None
    is 1 for a gan and 0 for all others."""
    small_fraction: Share = 0.0
    """Share of all steps, the first ones, that a resnet makes on pictures of three quarters the side, at about half the
    cost."""
    latent: PositiveInt = 64
    """Numbers that an autoencoder makes of a picture, and random ones of which a gan makes one."""
    noise: NonNegativeFloat = 0.5
    """Deviation of the noise that an autoencoder learns to take away, in deviations of the pictures."""


SPACE: dict[str, Range] = {
    "learning_rate": LogUniform(1e-3, 1e-2),
    "width": Choice((0.5, 1.0)),
    "label_smoothing": Choice((0.0, 0.1, 0.2)),
    "cut_out": Choice((0, 8)),
}

BASELINES = {"prior": Config(network="prior"), "linear": Config(network="linear")}
