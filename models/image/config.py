"""The training configuration of the image family and the search space of its sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.config import Choice, GradNorm, LogUniform, Range, TrainConfig
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
    """Architecture. resnet is the most accurate; cnn is the small network of common tutorials; backbone trains only
    linear heads on a frozen pretrained network; autoencoder learns embeddings without labels, for similar products and
    anomaly detection; gan generates images of each class of the first label; linear (logistic regression on principal
    components) and prior (class frequencies) are baselines."""
    epochs: PositiveInt = 12
    """Maximum number of epochs."""
    batch_size: PositiveInt = 500
    """Training images per optimizer step, summed over all workers."""
    learning_rate: PositiveFloat = 6e-3
    """Peak learning rate, reached after the warm-up, with cosine decay to a hundredth of it. The filters of a resnet,
    which Muon optimises, use 17 times this rate."""
    warmup_fraction: Share = 0.05
    """Fraction of all steps with linear warm-up of the learning rate."""
    max_grad_norm: GradNorm = 10.0
    """Maximum norm for gradient clipping."""
    patience: NonNegativeInt = 0
    """Early stopping: epochs without a better validation score before training stops; 0 disables it. Most of the gain
    comes late, when the learning rate decays."""
    width: PositiveFloat = 1.0
    """Multiplier on the number of filters of each layer of a resnet, cnn, autoencoder or gan."""
    backbone: str = ""
    """Local safetensors file with pretrained weights, with torchvision's tensor names; they are stored in the model."""
    architecture: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Architecture of the backbone's weights."""
    num_convolutions: Literal[2, 3] = 2
    """Convolutions in each group of a resnet; with three, the last two have a skip connection."""
    label_smoothing: Share = 0.1
    """Label smoothing: probability mass of the target that is spread over all classes."""
    flip: bool = True
    """Horizontal flips: every other epoch in training, and as test-time augmentation in prediction."""
    shift: NonNegativeInt = 2
    """Random translation of training images, in pixels along each axis."""
    test_shift: NonNegativeInt = 0
    """Test-time augmentation: also predict on the image translated by this many pixels to the upper left and to the
    lower right, and average. Slightly more accurate, three times slower; 0 disables it."""
    cut_out: NonNegativeInt = 0
    """Cutout: side of the square that is blanked in each training image, in pixels."""
    mixup: NonNegativeFloat = 0.0
    """Mixup: parameter of the beta distribution from which the blending weights of pairs of training images and labels
    are sampled. 0.4 helps with a few thousand images and many epochs; 0 disables it."""
    balance: Share | None = None
    """Class-balanced sampling by the first label: 0 samples every image once per epoch, 1 every class equally often, so
    that images of rare classes are repeated and some of frequent classes are left out. None is 1 for a gan and 0 for
    all other networks."""
    small_fraction: Share = 0.0
    """Progressive resizing: fraction of all steps, at the start, in which a resnet trains on images of three quarters
    of the side, at about half the cost."""
    latent: PositiveInt = 64
    """Latent size of an autoencoder or gan."""
    noise: NonNegativeFloat = 0.5
    """Standard deviation of the noise that an autoencoder learns to remove, in standard deviations of the pixels."""


SPACE: dict[str, Range] = {
    "learning_rate": LogUniform(1e-3, 1e-2),
    "width": Choice((0.5, 1.0)),
    "label_smoothing": Choice((0.0, 0.1, 0.2)),
    "cut_out": Choice((0, 8)),
}

BASELINES = {"prior": Config(network="prior"), "linear": Config(network="linear")}

_CLASSIFIER = ("latent", "noise")
_FITTED = (
    "epochs",
    "learning_rate",
    "warmup_fraction",
    "weight_decay",
    "max_grad_norm",
    "patience",
    "width",
    "backbone",
    "architecture",
    "num_convolutions",
    "label_smoothing",
    "cut_out",
    "mixup",
    "small_fraction",
)
_GENERATIVE = (
    "backbone",
    "architecture",
    "num_convolutions",
    "label_smoothing",
    "flip",
    "shift",
    "test_shift",
    "cut_out",
    "mixup",
    "small_fraction",
)
UNUSED_SETTINGS: dict[str, tuple[str, ...]] = {
    "resnet": ("backbone", "architecture", *_CLASSIFIER),
    "cnn": ("backbone", "architecture", "num_convolutions", "small_fraction", *_CLASSIFIER),
    "backbone": ("width", "num_convolutions", "small_fraction", *_CLASSIFIER),
    "autoencoder": _GENERATIVE,
    "gan": (*_GENERATIVE, "noise"),
    "linear": (*_FITTED, *_CLASSIFIER),
    "prior": (*_FITTED, *_CLASSIFIER),
}
"""Network -> settings that have no effect on it."""
