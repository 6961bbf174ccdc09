"""Augmentations of whole batches in torch: flip, shift, cutout and mixup, and the views of test-time augmentation.

Shapes: B images, C channels, S side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flip_alternately(pixels_BCSS: Tensor, epoch: int) -> Tensor:
    """Alternating flip: flip about half of the images horizontally, and in the next epoch the other half.

    The half is given by the parity of the sum of an image's pixels. Better than random flips (Jordan, 2024,
    arXiv:2404.00498).
    """
    mirrored = (pixels_BCSS.flatten(1).sum(1, dtype=torch.int64) + epoch) % 2 == 1
    return torch.where(mirrored[:, None, None, None], pixels_BCSS.flip(3), pixels_BCSS)


def tta_views(images_BCSS: Tensor, *, flip: bool, distance: int) -> list[Tensor]:
    """Views for test-time augmentation: the original, both shifts by `distance` along the diagonal, and all flipped.

    The six views of Jordan, 2024, arXiv:2404.00498; `flip=False` leaves out the flips, a distance of 0 the shifts.
    """
    found = [images_BCSS]
    if distance:
        padded, size = _padded(images_BCSS, distance), images_BCSS.shape[3]
        found += [padded[:, :, start : start + size, start : start + size] for start in (0, 2 * distance)]
    return found + [view.flip(3) for view in found] if flip else found


def shift(images_BCSS: Tensor, distance: int) -> Tensor:
    """Translate each image by up to `distance` pixels along both axes, with reflection padding."""
    if distance == 0:
        return images_BCSS
    size = images_BCSS.shape[3]
    padded = _padded(images_BCSS, distance)
    offsets = torch.randint(0, 2 * distance + 1, (2, len(images_BCSS)), device=images_BCSS.device)
    if images_BCSS.device.type != "cpu":
        return _windows(padded, offsets, size)
    moved = torch.empty_like(images_BCSS)
    for down in range(2 * distance + 1):
        for right in range(2 * distance + 1):
            chosen = ((offsets[0] == down) & (offsets[1] == right)).nonzero().squeeze(1)
            moved[chosen] = padded[chosen, :, down : down + size, right : right + size]
    return moved


def cut_out(images_BCSS: Tensor, side: int) -> Tensor:
    """Cutout: set a square of each image to zero, the mean; the square may extend beyond the border.

    DeVries and Taylor, 2017, arXiv:1708.04552.
    """
    if side == 0:
        return images_BCSS
    size, device = images_BCSS.shape[3], images_BCSS.device
    places = torch.arange(size, device=device)
    centres = torch.randint(0, size, (2, len(images_BCSS), 1), device=device)
    starts = centres - side // 2
    inside = (places >= starts) & (places < starts + side)
    return images_BCSS.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


def mix(images_BCSS: Tensor, concentration: float) -> tuple[Tensor, Tensor, float]:
    """Mixup: blend each image with another of the batch; returns the images, the others' indices [B] and the weight.

    The weight of the first image, at least 0.5, is sampled once per batch from a symmetric beta distribution.
    Zhang et al., 2018, arXiv:1710.09412.
    """
    drawn = float(torch.distributions.Beta(concentration, concentration).sample())
    share = max(drawn, 1 - drawn)
    others = torch.randperm(len(images_BCSS)).to(images_BCSS.device)
    return torch.lerp(images_BCSS[others], images_BCSS, share), others, share


def _windows(padded_BCPP: Tensor, offsets_2B: Tensor, size: int) -> Tensor:
    """The window [C, S, S] of each image at its offset, by one look-up: on a GPU, counting a selection would wait."""
    places = torch.arange(size, device=padded_BCPP.device)
    rows, columns = offsets_2B[0][:, None] + places, offsets_2B[1][:, None] + places
    images = torch.arange(len(padded_BCPP), device=padded_BCPP.device)[:, None, None, None]
    channels = torch.arange(padded_BCPP.shape[1], device=padded_BCPP.device)[:, None, None]
    return padded_BCPP[images, channels, rows[:, None, :, None], columns[:, None, None, :]]


def _padded(images_BCSS: Tensor, distance: int) -> Tensor:
    return F.pad(images_BCSS, (distance,) * 4, mode="reflect")
