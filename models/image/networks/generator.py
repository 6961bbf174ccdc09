"""Class-conditional generator and discriminator of a generative adversarial network.

Shapes: B images, C channels, S side, D latent size, W filters, F features, K classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.image.networks import augment
from models.image.networks.encoder import halved_sides

BASE_FILTERS = 64
"""Filters at half the image side at width 1; doubled at each lower resolution, up to MAX_FILTERS."""
MAX_FILTERS = 128
NUM_FEATURES = 128
LEAKY_SLOPE = 0.2
"""Negative slope of the discriminator's leaky ReLUs."""
TRANSLATION_FRACTION = 1 / 8
"""Largest translation of DiffAugment, as a fraction of the image side."""
CUTOUT_FRACTION = 1 / 3
"""Side of the cutout of DiffAugment, as a fraction of the image side."""


@dataclass(frozen=True)
class ImageSpec:
    """Shape and number of classes of the images to generate."""

    channels: int
    size: int
    num_classes: int


class Generator(nn.Module):
    """Noise [B, D] and classes [B] -> images [B, C, S, S] in -1 .. 1.

    Transposed convolutions as in DCGAN (Radford et al., 2016, arXiv:1511.06434). Each class has its own embedding,
    added to the first feature map, and conditional batch normalisation (de Vries et al., 2017, arXiv:1707.00683).
    """

    def __init__(self, spec: ImageSpec, *, width: float, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sides = halved_sides(spec.size)[::-1]
        widths = _widths(width, num_halvings=len(self.sides) - 1)[::-1]
        self.width = widths[0]
        self.dense = nn.Linear(dim, self.width * self.sides[0] ** 2)
        self.classes = nn.Embedding(spec.num_classes, self.width * self.sides[0] ** 2)
        # Noise starts at a larger scale than the class embedding; the other way round, each class collapses to a mode.
        nn.init.normal_(self.dense.weight, std=dim**-0.5)
        nn.init.normal_(self.classes.weight, std=0.1)
        self.norms = nn.ModuleList(ClassNorm(each, spec.num_classes) for each in widths)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=large - 2 * small)
            for (before, after), (small, large) in zip(
                itertools.pairwise([*widths, spec.channels]), itertools.pairwise(self.sides), strict=True
            )
        )

    def forward(self, noise_BD: Tensor, labels_B: Tensor) -> Tensor:
        coarse: Tensor = self.dense(noise_BD) + self.classes(labels_B)
        x = coarse.reshape(-1, self.width, self.sides[0], self.sides[0])
        x = x.contiguous(memory_format=torch.channels_last)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            x = convolution(F.relu(norm(x, labels_B)))
        return torch.tanh(x.float())


class ClassNorm(nn.Module):
    """Conditional batch normalisation: a gain and a shift for each class."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gains = nn.Embedding(num_classes, width)
        self.shifts = nn.Embedding(num_classes, width)
        nn.init.ones_(self.gains.weight)
        nn.init.zeros_(self.shifts.weight)

    def forward(self, x_BWSS: Tensor, labels_B: Tensor) -> Tensor:
        gains, shifts = (each(labels_B)[:, :, None, None] for each in (self.gains, self.shifts))
        out: Tensor = self.norm(x_BWSS) * gains + shifts
        return out


class Discriminator(nn.Module):
    """Images [B, C, S, S] in -1 .. 1 and classes [B] -> logits [B], higher for real images of the class.

    Every layer has spectral normalisation (Miyato et al., 2018, arXiv:1802.05957).
    """

    def __init__(self, spec: ImageSpec, *, width: float) -> None:
        super().__init__()
        sides = halved_sides(spec.size)
        widths = [spec.channels, *_widths(width, num_halvings=len(sides) - 1)]
        self.convolutions = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in itertools.pairwise(widths)
        )
        self.dense = spectral_norm(nn.Linear(widths[-1] * sides[-1] ** 2, NUM_FEATURES))
        self.any_class = nn.Linear(NUM_FEATURES, 1)
        self.classes = nn.Embedding(spec.num_classes, NUM_FEATURES)
        nn.init.zeros_(self.classes.weight)

    def forward(self, images_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        return self.logits(self.features(images_BCSS), labels_B)

    def features(self, images_BCSS: Tensor) -> Tensor:
        """Features [B, F] of images, independent of the class."""
        x = images_BCSS
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), LEAKY_SLOPE)
        return F.leaky_relu(self.dense(x.flatten(1)), LEAKY_SLOPE).float()

    def logits(self, features_BF: Tensor, labels_B: Tensor) -> Tensor:
        """Logits [B], by a projection discriminator (Miyato and Koyama, 2018, arXiv:1802.05637)."""
        logits: Tensor = self.any_class(features_BF).squeeze(1) + (self.classes(labels_B) * features_BF).sum(1)
        return logits.float()


def diff_augment(images_BCSS: Tensor) -> Tensor:
    """Random translation and cutout of each image, through which gradients flow; applied to real and generated images.

    Keeps the discriminator from memorising a small data set, without leaking the augmentation into the generator
    (DiffAugment, Zhao et al., 2020, arXiv:2006.10738).
    """
    size, device = images_BCSS.shape[3], images_BCSS.device
    distance = max(1, round(TRANSLATION_FRACTION * size))
    padded = F.pad(images_BCSS, (distance,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * distance + 1, (2, len(images_BCSS), 1), device=device)
    down, right = offsets + torch.arange(size, device=device)
    shape = (len(padded), padded.shape[1])
    translated = padded.gather(2, down[:, None, :, None].expand(*shape, size, padded.shape[3]))
    translated = translated.gather(3, right[:, None, None, :].expand(*shape, size, size))
    return augment.cut_out(translated, round(CUTOUT_FRACTION * size))


def _widths(width: float, *, num_halvings: int) -> list[int]:
    return [max(8, round(width * min(BASE_FILTERS * 2**place, MAX_FILTERS))) for place in range(num_halvings)]
