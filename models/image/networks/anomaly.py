"""How unlike the training images an image is: distances that are scaled by what was seen in training.

Shapes: B images or vectors, C channels, S side, D numbers of a vector, N bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.networks.baselines import Projection

NUM_DIRECTIONS = 8
"""Directions of edges, half a turn in all."""
GRID = 7
"""Edges are summed up over a grid of so many cells a side."""
NUM_EDGES = NUM_DIRECTIONS * GRID**2
EDGE_EPSILON = 1e-3
"""Edges fainter than this count little."""
STATISTICS_WINDOW = 50
"""Running statistics forget what is older than about so many updates."""
VARIANCE_FLOOR = 1e-3
"""Least variance along an axis, as a share of the mean over all axes."""
NUM_BINS = 1024
LOG_RANGE = 8.0
"""Scores from e^-8 to e^8 are told apart; 1 is an ordinary one."""
ANOMALOUS_RANK = 0.99
"""An image is strange when it is stranger than this share of the validation images."""
NUM_PRINCIPAL = 32
"""Components of the plain score: the best of 8, 16, 32 and 64 where it was measured."""


@dataclass(frozen=True)
class AnomalyScore:
    """How unlike the catalogue's images one is; ranks are shares of the validation images that are less so."""

    unlike: bool
    """Whether hardly a validation image, one in a hundred, is as strange."""
    score: float
    """Mean of the three parts; 1 is ordinary, for each of them too."""
    rank: float
    reconstruction: float
    """Part: error of the edges when the image is put together from its embedding."""
    latent: float
    """Part: squared Mahalanobis distance of the embedding."""
    outline: float
    """Part: squared distance of the image's edges from what they usually are."""
    pca_score: float
    """Error when it is put together from principal components alone: the plain method, to compare with."""
    pca_rank: float


class RunningCovariance(nn.Module):
    """Mean and covariance of vectors [B, D] that change while a network learns; set by `update` and `settle`.

    `distance` divides the square along each axis by its variance to the power of `whitening`: at 1 it is Mahalanobis's,
    at less an axis along which ordinary vectors differ more counts more.
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor
    num_updates: Tensor

    def __init__(self, dim: int, *, whitening: float) -> None:
        super().__init__()
        self.whitening = whitening
        # Double: along a narrow axis a rounding error weighs as much as something strange.
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("axes", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("num_updates", torch.zeros(()))

    def update(self, vectors_BD: Tensor) -> None:
        """Take some more vectors in."""
        weight = _update_weight(self.num_updates)
        self.mean.lerp_(vectors_BD.double().mean(0), weight)
        centred = vectors_BD - self.mean
        self.covariance.lerp_(centred.T @ centred / len(centred), weight)

    def update_axes(self) -> None:
        """Make the `axes` of the covariance as it is now; `distance` goes by these."""
        values, vectors = torch.linalg.eigh(self.covariance)
        values = values.clamp_min(0) + VARIANCE_FLOOR * values.mean().clamp_min(1e-12)
        ordinary = (values ** (1 - self.whitening)).mean()
        self.axes.copy_(vectors * (values**-self.whitening / ordinary).sqrt())

    def distance(self, vectors_BD: Tensor) -> Tensor:
        """Squared distance [B] from the mean, in units of the ordinary one."""
        return ((vectors_BD - self.mean) @ self.axes).square().mean(1).float()


class RunningMean(nn.Module):
    """The running mean of a positive number of images; set by `update`."""

    mean: Tensor
    num_updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.register_buffer("num_updates", torch.zeros(()))

    def update(self, values_B: Tensor) -> None:
        """Take some more images in."""
        self.mean.lerp_(values_B.mean(), _update_weight(self.num_updates))

    def relative(self, values_B: Tensor) -> Tensor:
        """The numbers in units of the mean."""
        return values_B / self.mean.clamp_min(1e-12)


class PercentileRank(nn.Module):
    """Which share of the validation images has a lower score; set from summed `counts`."""

    below: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("below", torch.linspace(0, 1, NUM_BINS))

    def counts(self, scores_B: Tensor) -> Tensor:
        """Images [N] by bin of their score."""
        return torch.bincount(_bins(scores_B), minlength=NUM_BINS)

    def set(self, histogram_N: Tensor) -> None:
        """Take over the counts of all validation images."""
        before = histogram_N.cumsum(0) - histogram_N
        self.below.copy_((before + histogram_N / 2) / histogram_N.sum().clamp_min(1))

    def forward(self, scores_B: Tensor) -> Tensor:
        return self.below[_bins(scores_B)]


def edge_histogram(images_BCSS: Tensor) -> Tensor:
    """How strong the edges of each direction are in each cell of a grid [B, NUM_EDGES], as square roots.

    What is left of a histogram of oriented gradients (Dalal and Triggs, 2005) when its bins are smooth functions. The
    outline tells things apart better than the pixels do, which brightness and folds change.
    """
    grey = F.pad(images_BCSS.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
    down = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    square = across.square() + down.square() + 1e-6
    angles = torch.arange(NUM_DIRECTIONS, device=grey.device) * (math.pi / NUM_DIRECTIONS)
    along = across * angles.cos()[:, None, None] + down * angles.sin()[:, None, None]
    strength = (along.square() / square) ** 4 * square.sqrt()
    return (F.adaptive_avg_pool2d(strength, GRID) + EDGE_EPSILON).sqrt().flatten(1)


def pca_residual(principal: Projection, images_BCSS: Tensor) -> Tensor:
    """Mean squared error [B] of each image when it is put together from the first principal components alone."""
    centred = (principal.pixels(images_BCSS) - principal.centre).double()
    # The components are scaled to variance one; a direction is a component over its length.
    directions = F.normalize(principal.components[:, :NUM_PRINCIPAL].double(), dim=0)
    lost = centred.square().sum(1) - (centred @ directions).square().sum(1)
    return (lost.clamp_min(0) / centred.shape[1]).float()


def _update_weight(num_updates: Tensor) -> float:
    """Of what is new: at first about half of all so far, for a network learns fastest then."""
    num_updates += 1
    return max(2 / (float(num_updates) + 1), 1 / STATISTICS_WINDOW)


def _bins(scores_B: Tensor) -> Tensor:
    place = (scores_B.double().clamp(1e-12, 1e12).log() / LOG_RANGE + 1) / 2 * NUM_BINS
    return place.long().clamp(0, NUM_BINS - 1)
