"""The parts of the anomaly score: running statistics, Mahalanobis distances, edge histograms and percentile ranks.

Shapes: B images or vectors, C channels, S side, D dimensions of a vector, N bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.image.networks.baselines import Projection

NUM_DIRECTIONS = 8
"""Edge orientations over 180 degrees."""
GRID = 7
"""Cells per side of the grid over which edges are pooled."""
NUM_EDGES = NUM_DIRECTIONS * GRID**2
EDGE_EPSILON = 1e-3
"""Added to the edge strengths before the square root, so that faint edges have little effect."""
STATISTICS_WINDOW = 50
"""Window of the running statistics, in updates."""
VARIANCE_FLOOR = 1e-3
"""Added to the variance along each axis, as a fraction of the mean over all axes."""
NUM_BINS = 1024
LOG_RANGE = 8.0
"""The bins cover scores from e^-8 to e^8."""
ANOMALOUS_RANK = 0.99
"""Percentile rank among the validation images above which an image is anomalous."""
NUM_PRINCIPAL = 32
"""Components of the PCA baseline: the best of 8, 16, 32 and 64 in our benchmark."""


@dataclass(frozen=True)
class AnomalyScore:
    """The anomaly score of an image; ranks are the share of the validation images with a lower score."""

    unlike: bool
    """Whether the image is anomalous: its rank is above 0.99."""
    score: float
    """Mean of reconstruction, latent and outline; 1 is typical, also of each of them."""
    rank: float
    reconstruction: float
    """Reconstruction error of the image's edge histogram."""
    latent: float
    """Squared Mahalanobis distance of the embedding."""
    outline: float
    """Squared distance of the image's edge histogram from the mean."""
    pca_score: float
    """Reconstruction error of PCA, the baseline."""
    pca_rank: float


class RunningCovariance(nn.Module):
    """Running mean and covariance of vectors [B, D] of a network in training, for distances to their distribution.

    `distance` divides the square along each principal axis by its variance to the power of `whitening`: 1 gives the
    Mahalanobis distance; a lower value gives axes of high variance more weight.
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor
    num_updates: Tensor

    def __init__(self, dim: int, *, whitening: float) -> None:
        super().__init__()
        self.whitening = whitening
        # Double: along an axis of low variance a rounding error looks like an anomaly.
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("axes", torch.eye(dim, dtype=torch.float64))
        self.register_buffer("num_updates", torch.zeros(()))

    def update(self, vectors_BD: Tensor) -> None:
        """Update mean and covariance with a batch."""
        weight = _update_weight(self.num_updates)
        self.mean.lerp_(vectors_BD.double().mean(0), weight)
        centred = vectors_BD - self.mean
        self.covariance.lerp_(centred.T @ centred / len(centred), weight)

    def update_axes(self) -> None:
        """Recompute the whitening `axes` that `distance` uses, from the current covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        values = values.clamp_min(0) + VARIANCE_FLOOR * values.mean().clamp_min(1e-12)
        ordinary = (values ** (1 - self.whitening)).mean()
        self.axes.copy_(vectors * (values**-self.whitening / ordinary).sqrt())

    def distance(self, vectors_BD: Tensor) -> Tensor:
        """Squared distance [B] from the mean; 1 on average over the distribution."""
        return ((vectors_BD - self.mean) @ self.axes).square().mean(1).float()


class RunningMean(nn.Module):
    """Running mean of a positive number, such as an error."""

    mean: Tensor
    num_updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))
        self.register_buffer("num_updates", torch.zeros(()))

    def update(self, values_B: Tensor) -> None:
        """Update the mean with a batch."""
        self.mean.lerp_(values_B.mean(), _update_weight(self.num_updates).to(self.mean.dtype))

    def relative(self, values_B: Tensor) -> Tensor:
        """The values in units of the mean."""
        return values_B / self.mean.clamp_min(1e-12)


class PercentileRank(nn.Module):
    """Percentile rank of a score among the validation images, from a histogram of log scores."""

    below: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("below", torch.linspace(0, 1, NUM_BINS))

    def histogram(self, scores_B: Tensor) -> Tensor:
        """Number of images [N] in each bin."""
        return torch.bincount(_bins(scores_B), minlength=NUM_BINS)

    def fit(self, histogram_N: Tensor) -> None:
        """Set the ranks from the summed histograms of the validation split."""
        before = histogram_N.cumsum(0) - histogram_N
        self.below.copy_((before + histogram_N / 2) / histogram_N.sum().clamp_min(1))

    def forward(self, scores_B: Tensor) -> Tensor:
        return self.below[_bins(scores_B)]


def edge_histogram(images_BCSS: Tensor) -> Tensor:
    """Square roots [B, NUM_EDGES] of the edge strength by orientation and grid cell.

    A histogram of oriented gradients (Dalal and Triggs, 2005) with smooth bins. It is less sensitive to brightness and
    folds than pixels are.
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
    """Mean squared reconstruction error [B] from the first NUM_PRINCIPAL principal components."""
    centred = (principal.pixels(images_BCSS) - principal.centre).double()
    # The components are scaled to unit variance; normalised, they are the principal directions.
    directions = F.normalize(principal.components[:, :NUM_PRINCIPAL].double(), dim=0)
    lost = centred.square().sum(1) - (centred @ directions).square().sum(1)
    return (lost.clamp_min(0) / centred.shape[1]).float()


def _update_weight(num_updates: Tensor) -> Tensor:
    """Weight of the next batch: high at first, as the network changes fastest then, later 1 / STATISTICS_WINDOW."""
    num_updates += 1
    return (2 / (num_updates.double() + 1)).clamp_min(1 / STATISTICS_WINDOW)


def _bins(scores_B: Tensor) -> Tensor:
    place = (scores_B.double().clamp(1e-12, 1e12).log() / LOG_RANGE + 1) / 2 * NUM_BINS
    return place.long().clamp(0, NUM_BINS - 1)
