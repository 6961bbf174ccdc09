"""The small convolutional network of common tutorials: three convolutions and a dense layer.

Shapes: B images, C channels, S side of an image, D width of the dense layer.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 64)
"""Filters of each convolution at width 1."""
DENSE = 64
KERNEL = 3


class Cnn(nn.Module):
    """Conv32, pool, Conv64, pool, Conv64, Dense64, each with ReLU: images [B, C, S, S] -> features [B, D]."""

    def __init__(self, *, channels: int, size: int, width: float) -> None:
        super().__init__()
        widths = [channels, *[max(8, round(width * value)) for value in WIDTHS]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL) for before, after in itertools.pairwise(widths)
        )
        side = ((size - 2) // 2 - 2) // 2 - 2
        if side < 1:
            raise ValueError(f"images of side {size} are too small for the cnn; prepare them at 18 or more")
        self.dim = max(8, round(width * DENSE))
        self.dense = nn.Linear(widths[-1] * side**2, self.dim)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        first, second, third = self.convolutions
        x = F.relu(F.max_pool2d(first(images_BCSS), 2))
        x = F.relu(F.max_pool2d(second(x), 2))
        return F.relu(self.dense(F.relu(third(x)).flatten(1)))
