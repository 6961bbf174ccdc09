"""The Fréchet distance between two sets of images, from moments that are additive over batches and workers.

Shapes: B images, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def moments(features_BF: Tensor) -> Tensor:
    """Count, sum and second moments of vectors, as one matrix [F + 1, F + 1] that is additive over batches."""
    extended = torch.cat([features_BF.new_ones(len(features_BF), 1), features_BF], 1).double()
    return extended.T @ extended


def frechet(real: Tensor, generated: Tensor) -> float:
    """The Fréchet distance between two sets of images, given their `moments`; 0 for equal sets.

    That of two Gaussians (Heusel et al., 2017, arXiv:1706.08500), divided by the total variance of the real images, so
    that it does not depend on the scale of the features. NaN without images or without variance.
    """
    if not float(real[0, 0]) or not float(generated[0, 0]):
        return math.nan
    (mean, covariance), (other_mean, other) = _gaussian(real), _gaussian(generated)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    between = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    variance = covariance.trace()
    distance = (mean - other_mean).square().sum() + variance + other.trace() - 2 * between
    return float(distance.clamp_min(0) / variance) if float(variance) > 0 else math.nan


def _gaussian(moments_FF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    scaled = moments_FF / moments_FF[0, 0]
    return scaled[0, 1:], scaled[1:, 1:] - torch.outer(scaled[0, 1:], scaled[0, 1:])
