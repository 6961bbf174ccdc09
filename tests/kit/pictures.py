"""Made-up pictures with a known right answer, and files of every kind that a shop or an attacker may send."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from models.image.prepare.pipeline import PrepareConfig, prepare
from models.image.schema import Schema
from models.prepared import Prepared

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}
SHAPES = ("bar", "disc")


def drawn(shape: str, colour: str, *, size: int = 16, seed: int = 0) -> Image.Image:
    """A bar or a disc in a colour on white, a little elsewhere for each seed."""
    draw = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size] - (size - 1) / 2 - draw.uniform(-2, 2, 2)[:, None, None]
    inside = (np.abs(row) < size / 8) if shape == "bar" else (row**2 + column**2 < (size / 3.5) ** 2)
    pixels = np.where(inside[..., None], np.array(COLOURS[colour]), 250) + draw.integers(-5, 6, (size, size, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    file = BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


def write_folder(root: Path, *, num_pictures: int = 60, split: bool = False) -> Path:
    """A folder per shape with PNG files; the classes and the colours take turns."""
    for number in range(num_pictures):
        shape, colour = SHAPES[number % 2], list(COLOURS)[number % 3]
        parts = ["test" if number % 5 == 0 else "train"] if split else []
        path = root.joinpath(*parts, shape, f"{number:03d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(drawn(shape, colour, seed=number)))
    return root


def table(num_pictures: int = 60) -> pa.Table:
    """Products with a photo from the front and one from the side, as a table with the bytes."""
    rows = range(num_pictures)
    return pa.table(
        {
            "sku": [f"sku-{row // 2:03d}" for row in rows],
            "photo": [encoded(drawn(SHAPES[row // 2 % 2], list(COLOURS)[row // 2 % 3], seed=row)) for row in rows],
            "shape": [SHAPES[row // 2 % 2] for row in rows],
            "paint": [list(COLOURS)[row // 2 % 3] if row % 10 else None for row in rows],
        }
    )


TABLE_FLAGS: dict[str, Any] = {"labels": ("shape", "colour=paint"), "columns": "image=photo,item_id=sku"}


def prepared(tmp_path: Path, raw: Path, *, workers: int = 2, **fields: Any) -> tuple[Prepared, Schema]:
    """Prepare into a fresh directory."""
    out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
    out.mkdir()
    with ThreadPoolExecutor(workers) as executor:
        schema = prepare(PrepareConfig(raw=str(raw), **fields), out, executor)
    return Prepared(out), schema


def all_ids(data: Prepared) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(shard / "ids.parquet") for shard in data.shards()])


def half_red(width: int = 40, height: int = 20) -> Image.Image:
    """Red in the left half, blue in the right."""
    pixels: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 2] = 255, 255
    return Image.fromarray(pixels)


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few kilobytes whose header is true: billions of black pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    """An extended WebP that says how large it is, and little else."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes(4) + size + bytes(16)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def animated(format: str) -> bytes:
    """Two frames."""
    frames = [drawn("bar", "red"), drawn("disc", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
