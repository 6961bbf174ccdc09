"""What a trained image network has to beat: class frequencies, and logistic regression on principal components.

Shapes: B images, C channels, S side, P averaged pixels, D components, K classes of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_SIDE = 32
"""Larger images are averaged down to about this side before their components are taken."""
MAX_COMPONENTS = 128
PENALTY = 1e-3
"""Of the squared weights, beside a mean log loss."""
MAX_ITERATIONS = 100


class Constant(nn.Module):
    """The same feature [B, 1], zero, for every image: all that is left of a head is its bias."""

    dim = 1

    def forward(self, images_BCSS: Tensor) -> Tensor:
        return images_BCSS.new_zeros(len(images_BCSS), 1)


class Projection(nn.Module):
    """Principal components [B, D] of the pixels, each of variance one; set by `fit`."""

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
        """Set the components from the `pixels` of normalised training images, and return those of the images."""
        self.centre.copy_(pixels_BP.mean(0))
        centred = pixels_BP - self.centre
        values, vectors = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
        scale = values.clamp_min(1e-9).rsqrt()
        self.components.copy_((vectors * scale).flip(1)[:, : self.dim])
        return centred @ self.components

    def pixels(self, images_BCSS: Tensor) -> Tensor:
        """The P pixels [B, P] of each image, averaged down."""
        return F.avg_pool2d(images_BCSS, self.stride).contiguous().flatten(1)


def fit_logistic(features_BD: Tensor, labels_B: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weights [K, D] and biases [K] of the penalised multinomial logistic regression, by L-BFGS."""
    # Tensors made where gradients are switched off for good (inference mode) cannot be learnt from; copies can.
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
