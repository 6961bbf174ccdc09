"""The two players of a generative adversarial network over pictures: one makes them, one tells made from real.

Shapes: B pictures, C channels, S side, D random numbers, W filters, F features, K classes.
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

FINEST = 64
"""Filters at half the picture's side at width 1; twice as many at each coarser one, up to COARSEST."""
COARSEST = 128
NUM_FEATURES = 128
SLOPE = 0.2
"""Of the discriminator's leaky rectifiers."""
MOVED_SHARE = 1 / 8
"""Of the side, by which a picture is moved at the most before it is told apart."""
CUT_SHARE = 1 / 3
"""Of the side, the side of the square that is cut out."""


@dataclass(frozen=True)
class Kind:
    """What pictures are made."""

    channels: int
    size: int
    num_classes: int


class Generator(nn.Module):
    """Random numbers [B, D] and classes [B] -> pictures [B, C, S, S] on -1 .. 1.

    Transposed convolutions from a coarse picture to the whole one, after DCGAN (Radford et al., 2016,
    arXiv:1511.06434); a class has a coarse picture of its own to begin with, and its own gain and shift after each
    normalisation (de Vries et al., 2017, arXiv:1707.00683).
    """

    def __init__(self, kind: Kind, *, width: float, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sides = halved_sides(kind.size)[::-1]
        widths = _widths(width, num_halvings=len(self.sides) - 1)[::-1]
        self.width = widths[0]
        self.dense = nn.Linear(dim, self.width * self.sides[0] ** 2)
        self.classes = nn.Embedding(kind.num_classes, self.width * self.sides[0] ** 2)
        # The noise begins louder than the class; the other way round, all pictures of a class stay alike.
        nn.init.normal_(self.dense.weight, std=dim**-0.5)
        nn.init.normal_(self.classes.weight, std=0.1)
        self.norms = nn.ModuleList(ClassNorm(each, kind.num_classes) for each in widths)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=large - 2 * small)
            for (before, after), (small, large) in zip(
                itertools.pairwise([*widths, kind.channels]), itertools.pairwise(self.sides), strict=True
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
    """Batch normalisation whose gain and shift belong to the class."""

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
    """Pictures [B, C, S, S] on -1 .. 1 and classes [B] -> verdicts [B], higher for real ones of the class.

    Every layer's largest singular value is kept at one (spectral normalisation, Miyato et al., 2018, arXiv:1802.05957).
    """

    def __init__(self, kind: Kind, *, width: float) -> None:
        super().__init__()
        sides = halved_sides(kind.size)
        widths = [kind.channels, *_widths(width, num_halvings=len(sides) - 1)]
        self.convolutions = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in itertools.pairwise(widths)
        )
        self.dense = spectral_norm(nn.Linear(widths[-1] * sides[-1] ** 2, NUM_FEATURES))
        self.any_class = nn.Linear(NUM_FEATURES, 1)
        self.classes = nn.Embedding(kind.num_classes, NUM_FEATURES)
        nn.init.zeros_(self.classes.weight)

    def forward(self, pictures_BCSS: Tensor, labels_B: Tensor) -> Tensor:
        return self.verdict(self.features(pictures_BCSS), labels_B)

    def features(self, pictures_BCSS: Tensor) -> Tensor:
        """What it sees in pictures [B, F], whatever class they are said to be of."""
        x = pictures_BCSS
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), SLOPE)
        return F.leaky_relu(self.dense(x.flatten(1)), SLOPE).float()

    def verdict(self, features_BF: Tensor, labels_B: Tensor) -> Tensor:
        """Verdicts [B] on features.

        The class enters as a product with the features (Miyato and Koyama, 2018, arXiv:1802.05637).
        """
        verdicts: Tensor = self.any_class(features_BF).squeeze(1) + (self.classes(labels_B) * features_BF).sum(1)
        return verdicts.float()


def disturbed(pictures_BCSS: Tensor) -> Tensor:
    """Pictures moved and with a square cut out, differently each: what the discriminator sees of real and made ones.

    With few real pictures it would otherwise learn them by heart. As both are disturbed and gradients pass through, the
    generator does not learn to disturb (Zhao et al., 2020, arXiv:2006.10738).
    """
    size, device = pictures_BCSS.shape[3], pictures_BCSS.device
    distance = max(1, round(MOVED_SHARE * size))
    padded = F.pad(pictures_BCSS, (distance,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * distance + 1, (2, len(pictures_BCSS), 1), device=device)
    down, right = offsets + torch.arange(size, device=device)
    shape = (len(padded), padded.shape[1])
    moved = padded.gather(2, down[:, None, :, None].expand(*shape, size, padded.shape[3]))
    moved = moved.gather(3, right[:, None, None, :].expand(*shape, size, size))
    return augment.cut_out(moved, round(CUT_SHARE * size))


def _widths(width: float, *, num_halvings: int) -> list[int]:
    return [max(8, round(width * min(FINEST * 2**place, COARSEST))) for place in range(num_halvings)]
