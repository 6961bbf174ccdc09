"""A convolutional network that is trained from scratch on small images and product photos in few epochs.

After "94% on CIFAR-10 in 3.29 seconds" (Jordan, 2024, arXiv:2404.00498): a patch-whitening first layer, three groups
of convolutions with pooling inside, batch norm without scales, identity (dirac) initialisation.

Shapes: B images, C channels, S side of an image, D width of the last group.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 256, 256)
"""Filters of each group at width 1."""
LARGE_SIDE = 48
"""Larger images go through an additional group first."""
FRONT_WIDTH = 32
"""Filters of that group at width 1."""
GROUP_SIDE = 32
"""Approximate input side of the three groups, to which the stride of the whitening layer is set."""
MAX_DIRECTIONS = 16
"""Leading eigenvectors of the patches that are kept; each gives a filter and its negative."""
WHITENING_FLOOR = 5e-4
"""Added to the variances, so that directions of low variance are not amplified."""
NORM_MOMENTUM = 0.2
SCALE_OUT = 1 / 3
"""Factor on the logits, which makes one learning rate suit both the biases and the heads."""


class Whitening(nn.Module):
    """First layer: whitens patches; its filters are fitted to data, only the bias is trained."""

    weight: Tensor

    def __init__(self, *, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.kernel = 3 if channels == 1 and self.stride == 1 else 2 * self.stride
        self.num_directions = min(channels * self.kernel**2, MAX_DIRECTIONS)
        self.register_buffer("weight", torch.zeros(self.width, channels, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.zeros(self.width))

    @property
    def width(self) -> int:
        """Output channels."""
        return 2 * self.num_directions

    def forward(self, images_BCSS: Tensor) -> Tensor:
        return F.conv2d(images_BCSS, self.weight, self.bias, stride=self.stride)

    def fit(self, images_BCSS: Tensor) -> None:
        """Set the filters to the eigenvectors of patches of normalised training images, scaled to unit variance."""
        patches = F.unfold(images_BCSS, self.kernel, stride=self.kernel)
        patches = patches.transpose(1, 2).flatten(0, 1).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + WHITENING_FLOOR).sqrt()).T.flip(0)[: self.num_directions]
        self.weight.copy_(torch.cat([filters, -filters]).reshape(self.weight.shape))


class Norm(nn.BatchNorm2d):
    """Batch normalisation with a learned shift and no scale."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=NORM_MOMENTUM)
        self.weight.requires_grad_(False)


class Group(nn.Module):
    """A convolution with pooling, then one more convolution, or two with a skip connection."""

    def __init__(self, width_in: int, width: int, *, num_convolutions: int) -> None:
        super().__init__()
        widths = [width_in, *[width] * (num_convolutions - 1)]
        self.convolutions = nn.ModuleList(nn.Conv2d(before, width, 3, padding=1, bias=False) for before in widths)
        self.norms = nn.ModuleList(Norm(width) for _ in widths)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        x = F.gelu(self.norms[0](F.max_pool2d(self.convolutions[0](x_BCSS), 2)))
        if len(self.convolutions) == 2:
            return F.gelu(self.norms[1](self.convolutions[1](x)))
        inner = F.gelu(self.norms[1](self.convolutions[1](x)))
        return F.gelu(x + self.norms[2](self.convolutions[2](inner)))


class ResNet(nn.Module):
    """Images [B, C, S, S] -> features [B, D]; also accepts other sides than it was built for."""

    def __init__(self, *, channels: int, size: int, width: float, num_convolutions: int) -> None:
        super().__init__()
        front = (FRONT_WIDTH,) if size > LARGE_SIDE else ()
        stride = max(1, round(size / (2 * GROUP_SIDE if front else GROUP_SIDE)))
        self.whitening = Whitening(channels=channels, stride=stride)
        widths = [self.whitening.width, *[max(8, round(width * value / 8) * 8) for value in (*front, *WIDTHS)]]
        self.groups = nn.Sequential(
            *[Group(before, after, num_convolutions=num_convolutions) for before, after in itertools.pairwise(widths)]
        )
        self.dim = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight.data[: module.in_channels])

    def forward(self, images_BCSS: Tensor) -> Tensor:
        x = F.gelu(self.whitening(images_BCSS))
        features: Tensor = self.groups(x).amax((2, 3))
        return features

    def filters(self) -> list[nn.Parameter]:
        """The convolutions' weights, which Muon optimises."""
        return [parameter for parameter in self.groups.parameters() if parameter.ndim == 4]
