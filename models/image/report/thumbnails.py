"""Thumbnails of prepared images for a report."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from PIL.Image import Resampling

import models.report
from models.image.codec import Pixels, encode_png

PLAIN_SIDE = 64
"""Images up to this side are stored losslessly at full size."""
MAX_SIDE = 112
QUALITY = 82


def thumbnail(pixels: Pixels, text: str, caption: str = "") -> models.report.Picture:
    """An image [C, S, S] for a report, with alternative text and caption."""
    if pixels.shape[-1] <= PLAIN_SIDE:
        return models.report.Picture(encode_png(pixels), text, caption)
    image = as_image(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return models.report.Picture(file.getvalue(), text, caption)


def as_image(pixels: Pixels) -> Image.Image:
    """Pixels [C, S, S] as a Pillow image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def as_pixels(image: Image.Image) -> Pixels:
    """A grey or RGB Pillow image as pixels [C, S, S]."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
