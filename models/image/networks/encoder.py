"""Encoder and decoder of the autoencoder.

Shapes: B images, C channels, S side, D latent size.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64)
"""Filters of the first two convolutions at width 1; further ones are as wide as the second."""
MAX_COARSE_SIDE = 8
"""Images are downsampled by two at least twice, and until their side is at most this."""


class Encoder(nn.Module):
    """Strided convolutions and a linear layer: normalised images [B, C, S, S] -> latents [B, D]."""

    def __init__(self, *, channels: int, size: int, width: float, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sides = halved_sides(size)
        self.widths = _widths(channels, width, num_halvings=len(self.sides) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in itertools.pairwise(self.widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in self.widths[1:])
        self.dense = nn.Linear(self.widths[-1] * self.sides[-1] ** 2, dim)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        x = images_BCSS
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        latents: Tensor = self.dense(x.flatten(1))
        return latents


class Decoder(nn.Module):
    """Mirrors the encoder: latents [B, D] -> normalised images [B, C, S, S]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.sides, self.widths = encoder.sides[::-1], encoder.widths[::-1]
        self.dense = nn.Linear(encoder.dim, self.widths[0] * self.sides[0] ** 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in self.widths[:-1])
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=large - 2 * small)
            for (before, after), (small, large) in zip(
                itertools.pairwise(self.widths), itertools.pairwise(self.sides), strict=True
            )
        )

    def forward(self, latents_BD: Tensor) -> Tensor:
        x: Tensor = self.dense(latents_BD).reshape(-1, self.widths[0], self.sides[0], self.sides[0])
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(F.gelu(norm(x)))
        return x


class FrozenEncoder(nn.Module):
    """An encoder as the frozen trunk of a classifier; registers no parameters of its own."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.dim = encoder.dim
        self._encoder = (encoder,)  # in a tuple, so that it is not registered as a submodule and stored twice

    def forward(self, images_BCSS: Tensor) -> Tensor:
        with torch.no_grad():
            latents: Tensor = self._encoder[0](images_BCSS)
        return latents


def halved_sides(size: int) -> list[int]:
    """The sides of the feature maps of a network that downsamples like the encoder, from the image on."""
    sides = [size]
    while len(sides) < 3 or sides[-1] > MAX_COARSE_SIDE:
        sides.append(sides[-1] // 2)
    return sides


def _widths(channels: int, width: float, *, num_halvings: int) -> list[int]:
    filters = [max(8, round(width * WIDTHS[min(place, 1)])) for place in range(num_halvings)]
    return [channels, *filters]
