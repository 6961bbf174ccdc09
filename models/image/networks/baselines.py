"""Trunks and solvers of the baselines: class frequencies, and logistic regression on principal components.

Shapes: B images, C channels, S side, P averaged pixels, D components, K classes of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_SIDE = 32
"""Larger images are average-pooled to about this side before PCA."""
MAX_COMPONENTS = 128
PENALTY = 1e-3
"""L2 penalty, relative to the mean log loss."""
MAX_ITERATIONS = 100


class Constant(nn.Module):
    """A constant feature [B, 1] of zero, which reduces each head to its bias."""

    dim = 1

    def forward(self, images_BCSS: Tensor) -> Tensor:
        return images_BCSS.new_zeros(len(images_BCSS), 1)


class Projection(nn.Module):
    """PCA of the pixels with unit variance (whitened) [B, D]; set by `fit`."""

    centre: Tensor
    components: Tensor

    def __init__(self, *, channels: int, size: int) -> None:
        super().__init__()
        self.stride = max(1, round(size / MAX_SIDE))
        num_pixels = channels * (size // self.stride) ** 2
        self.dim = min(MAX_COMPONENTS, num_pixels)
        self.register_buffer("centre", torch.zeros(num_pixels))
        self.register_buffer("components", torch.zeros(num_pixels, self.dim))

    def forward(self, images_BCSS: Tensor) -> Tensor:
        return (self.pixels(images_BCSS) - self.centre) @ self.components

    def fit(self, pixels_BP: Tensor) -> Tensor:
        """Fit the components to the `pixels` of normalised training images and return the transformed images."""
        self.centre.copy_(pixels_BP.mean(0))
        centred = pixels_BP - self.centre
        values, vectors = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
        scale = values.clamp_min(1e-9).rsqrt()
        self.components.copy_((vectors * scale).flip(1)[:, : self.dim])
        return centred @ self.components

    def pixels(self, images_BCSS: Tensor) -> Tensor:
        """The average-pooled pixels [B, P] of each image."""
        return F.avg_pool2d(images_BCSS, self.stride).contiguous().flatten(1)


def fit_logistic(features_BD: Tensor, labels_B: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and biases [K] of a multinomial logistic regression with L2 penalty, by L-BFGS."""
    # Autograd cannot use tensors created in inference mode; it can use copies.
    with torch.inference_mode(False), torch.enable_grad():
        return _fit_logistic(features_BD.clone(), labels_B.clone(), num_classes)


def _fit_logistic(features_BD: Tensor, labels_B: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    features = torch.cat([features_BD.detach(), torch.ones(len(features_BD), 1)], 1)
    weights = torch.zeros(num_classes, features.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(features @ weights.T, labels_B) + PENALTY * weights[:, :-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()[:, :-1], weights.detach()[:, -1]
