"""Decodes untrusted image files: checks the header first, then resizes the pixels to one size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.Image import DecompressionBombError, Resampling, Transpose

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 25_000_000
MIN_SIDE = 4
MAX_SCANS = 100
"""A progressive JPEG has about ten scans; thousands of them in a small file are a denial of service."""

_ORIENTATION = 0x0112
_ROTATIONS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
_OTHER_KINDS = {
    **{b"GIF87a": "a GIF image", b"GIF89a": "a GIF image", b"BM": "a BMP image", b"8BPS": "a Photoshop file"},
    **{b"II*\0": "a TIFF image or a camera's raw file", b"MM\0*": "a TIFF image or a camera's raw file"},
    **{b"\0\0\0\x0cjP  ": "a JPEG 2000 image", b"\0\0\0\x0cJXL ": "a JPEG XL image", b"\xff\x0a": "a JPEG XL image"},
    **{b"%PDF": "a PDF file", b"PK\x03\x04": "a ZIP archive", b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzip file"},
    **{b"\0\x05\x16\x07": "an AppleDouble file of macOS"},
}
"""First bytes -> what a message calls the file."""
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BINARY = set(range(9)) | set(range(14, 32)) | set(range(127, 256))
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(ArithmeticError, MemoryError, struct.error, zlib.error),
)
"""The exceptions that Pillow raises on corrupt files."""

Pixels = npt.NDArray[np.uint8]


class PictureRejected(ValueError):
    """An unusable image; `reason` is a code to count by, the message has the details."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Properties of an image that are known before it is decoded."""

    width: int
    height: int
    is_grey: bool


def read_header(encoded: bytes) -> Header:
    """Read the size without decoding; raises PictureRejected for every fault that the header shows."""
    with _opened(encoded) as image:
        width, height = image.size
        return Header(width, height, image.mode in _GREY_MODES)


def decode(encoded: bytes, *, size: int, channels: int) -> Pixels:
    """Decode a JPEG, PNG or WebP image to [channels, size, size]; raises PictureRejected.

    Applies the EXIF orientation, composites transparency on white, scales the longer side to `size` and pads with the
    colour of the border. Nothing is cropped: product photos reach the edge, and a crop would lose the toe of a shoe or
    the strap of a watch.
    """
    with _opened(encoded) as image:
        # Downscales a large JPEG during decoding, in a fraction of the time and memory.
        image.draft(image.mode, (2 * size, 2 * size))
        _guarded(image.load)
        turned = _turned(image)
        try:
            return _fitted(turned, size=size, channels=channels)
        except _DAMAGE as error:
            raise PictureRejected("unreadable", f"the image cannot be converted: {error}") from None


def fit(pixels: Pixels, *, size: int, channels: int) -> Pixels:
    """Pixels [height, width] or [height, width, 3] as [channels, size, size], scaled and padded as by `decode`."""
    if pixels.shape[:2] == (size, size) and channels == (1 if pixels.ndim == 2 else pixels.shape[2]):
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    return _fitted(Image.fromarray(pixels), size=size, channels=channels)


def encode_png(pixels: Pixels) -> bytes:
    """Pixels [channels, side, side] as a PNG file."""
    plain = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    file = BytesIO()
    Image.fromarray(plain).save(file, format="PNG")
    return file.getvalue()


def colour_card(size: int, *, channels: int) -> Pixels:
    """A deterministic test image [channels, size, size]: a gradient in each channel, and stripes."""
    row, column = np.mgrid[:size, :size]
    shades = [row * 255 // size, column * 255 // size, (row + column) * 255 // (2 * size)]
    stripes = (row // 4) % 2 == 0
    return np.stack([np.where(stripes, shade, 255 - shade) for shade in shades[:channels]]).astype(np.uint8)


def _opened(encoded: bytes) -> Any:
    """Open an image lazily, after every check that needs no pixels."""
    if not encoded:
        raise PictureRejected("empty", "the image has no bytes")
    if len(encoded) > MAX_BYTES:
        raise PictureRejected("too_many_bytes", f"the image has {len(encoded):,} bytes; {MAX_BYTES:,} are allowed")
    _check_webp(encoded)
    try:
        image = _guarded(lambda: Image.open(BytesIO(encoded), formats=FORMATS))
    except PictureRejected as rejected:
        kind = _other_kind(encoded) if rejected.reason == "not_a_picture" else None
        if kind is None:
            raise
        raise PictureRejected("not_a_picture", f"the file is {kind}, not a JPEG, PNG or WebP image") from None
    width, height = image.size
    _check_size(width, height)
    # Phones write JPEGs with a second image inside (MPO); the first one is used.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise PictureRejected("animated", "the image is animated; send one frame")
    if image.format in ("JPEG", "MPO") and encoded.count(b"\xff\xda") > MAX_SCANS:
        raise PictureRejected("too_many_scans", f"the JPEG has more than {MAX_SCANS} scans; re-encode it")
    return image


def _other_kind(encoded: bytes) -> str | None:
    """What a file is that is no image of FORMATS, by its first bytes; None if it is not known."""
    if encoded[4:8] == b"ftyp":
        brand = encoded[8:12]
        return "an AVIF image" if brand in (b"avif", b"avis") else "a HEIC image" if brand in _HEIC else "a video"
    for start, kind in _OTHER_KINDS.items():
        if encoded.startswith(start):
            return kind
    text = encoded[:512].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith(b"<") and b"<svg" in text:
        return "an SVG image"
    return "text" if text and not set(text) & _BINARY else None


def _guarded(read: Callable[[], Any]) -> Any:
    """Run a step of Pillow and translate its exceptions to PictureRejected."""
    try:
        return read()
    except DecompressionBombError:
        raise PictureRejected("too_many_pixels", f"the image has more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise PictureRejected("not_a_picture", "the file is not a JPEG, PNG or WebP image") from None
    except _DAMAGE as error:
        cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
        message = "the image is truncated" if cut else f"the image is corrupt: {error}"
        raise PictureRejected("truncated" if cut else "unreadable", message) from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureRejected("too_many_pixels", f"the image is {width} x {height}; {MAX_PIXELS:,} pixels are allowed")
    if min(width, height) < MIN_SIDE:
        raise PictureRejected("too_small", f"the image is {width} x {height}; each side needs {MIN_SIDE} pixels")


def _check_webp(encoded: bytes) -> None:
    """Reject a huge WebP before Pillow opens it, as the decoder allocates all pixels at once."""
    if encoded[:4] != b"RIFF" or encoded[8:12] != b"WEBP" or len(encoded) < 30:
        return
    match encoded[12:16]:
        case b"VP8X":
            width, height = (1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        case b"VP8L":
            bits = int.from_bytes(encoded[21:25], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case _:
            width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(width, height)


def _turned(image: Image.Image) -> Image.Image:
    try:
        rotation = _ROTATIONS.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:  # invalid EXIF data does not affect the pixels
        rotation = None
    return image if rotation is None else image.transpose(rotation)


def _fitted(image: Image.Image, *, size: int, channels: int) -> Pixels:
    """The image scaled into a square: [channels, size, size]."""
    plain = _plain(image)
    scale = size / max(plain.size)
    width, height = (max(1, round(side * scale)) for side in plain.size)
    if (width, height) != plain.size:
        plain = plain.resize((width, height), Resampling.BICUBIC, reducing_gap=2.0)
    pixels = np.asarray(_on_white(plain).convert("L" if channels == 1 else "RGB")).reshape(height, width, channels)
    square = np.empty((size, size, channels), np.uint8)
    if (width, height) != (size, size):
        square[:] = _border_colour(pixels)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def _plain(image: Image.Image) -> Image.Image:
    """The image in a mode that can be resized: 8 bits, no palette."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        return image.convert("RGBA")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image
    colour = image.convert("RGBA")
    white = Image.new("RGBA", colour.size, "white")
    return Image.alpha_composite(white, colour)


def _border_colour(pixels: Pixels) -> Pixels:
    """The median colour of the outermost pixels: usually white in product photos, black in scans."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour: Pixels = np.median(border, axis=0).astype(np.uint8)
    return colour
