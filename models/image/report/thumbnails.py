"""Prepared images as small files for a report."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from PIL.Image import Resampling

import models.report
from models.image.codec import Pixels, encode_png

PLAIN_SIDE = 64
"""Images of up to so many pixels are stored as they are, for every one of them counts."""
MAX_SIDE = 112
QUALITY = 82


def thumbnail(pixels: Pixels, text: str, caption: str = "") -> models.report.Picture:
    """An image [C, S, S] for a report, with what there is to see and what stands below it."""
    if pixels.shape[-1] <= PLAIN_SIDE:
        return models.report.Picture(encode_png(pixels), text, caption)
    image = as_image(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Resampling.BICUBIC)
    file = BytesIO()
    image.save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return models.report.Picture(file.getvalue(), text, caption)


def as_image(pixels: Pixels) -> Image.Image:
    """Pixels [C, S, S] as an image of Pillow's."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def as_pixels(image: Image.Image) -> Pixels:
    """An image of Pillow's, grey or coloured, as pixels [C, S, S]."""
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
