"""A made-up catalogue of simple drawings whose kind and colour are known; for the demo and the tests."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from models.family import Question, Sample
from models.image.codec import encode_png

KINDS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "Shirts": (
        *((-0.4, -1), (0.4, -1), (1, -0.5), (0.7, -0.1), (0.5, -0.3)),
        *((0.5, 1), (-0.5, 1), (-0.5, -0.3), (-0.7, -0.1), (-1, -0.5)),
    ),
    "Trousers": ((-0.6, -1), (0.6, -1), (0.7, 1), (0.2, 1), (0, -0.3), (-0.2, 1), (-0.7, 1)),
    "Bags": (
        *((-0.4, -0.2), (-0.4, -0.8), (0.4, -0.8), (0.4, -0.2), (1, -0.2), (0.8, 1), (-0.8, 1)),
        *((-1, -0.2), (-0.25, -0.2), (0.25, -0.2), (0.25, -0.65), (-0.25, -0.65), (-0.25, -0.2)),
    ),
    "Shoes": ((-1, -0.5), (-0.4, -0.5), (-0.1, 0), (0.8, 0.2), (1, 0.6), (-1, 0.6)),
}
"""Outlines on -1 .. 1, right and down."""
COLOURS = {
    **{"Red": (200, 40, 40), "Green": (50, 150, 60), "Blue": (50, 70, 190), "Black": (40, 40, 40)},
    **{"Yellow": (230, 200, 50)},
}
SIDE = 32
NUM_PRODUCTS = 1200
BAD, DUPLICATES = 4, 6
"""Images that cannot be read, and repeated ones, as a real catalogue has them."""


def sample(directory: Path) -> Sample:
    """A small made-up catalogue for the demo, with images to show to its endpoint."""
    table = write_sample(directory)
    draw = np.random.default_rng(1)
    questions = []
    for kind, colour in (("Shirts", "Red"), ("Bags", "Blue")):
        image = base64.b64encode(encode_png(_picture(kind, colour, draw))).decode("ascii")
        questions.append(Question(f"a new image of {kind.lower()}", {"image": image}, f"{kind}, {colour}"))
    return Sample(
        prepare={"raw": str(table), "labels": ("type", "colour")},
        train={"network": "cnn", "epochs": 12, "batch_size": 16},
        questions=questions,
    )


def write_sample(directory: Path, *, num_products: int = NUM_PRODUCTS, seed: int = 0) -> Path:
    """Write catalogue.parquet (item_id, image, type, colour) into a directory; the same arguments, the same file."""
    draw = np.random.default_rng(seed)
    kinds = [list(KINDS)[place] for place in draw.integers(len(KINDS), size=num_products)]
    colours = [list(COLOURS)[place] for place in draw.integers(len(COLOURS), size=num_products)]
    images = [encode_png(_picture(kind, colour, draw)) for kind, colour in zip(kinds, colours, strict=True)]
    bad = [image[: len(image) // 2] for image in images[:BAD]]
    order = [*range(num_products), *range(BAD), *range(DUPLICATES)]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "catalogue.parquet"
    table = {
        "item_id": [f"item-{place:05d}" for place in range(len(order))],
        "image": [*images, *bad, *images[:DUPLICATES]],
        "type": [kinds[place] for place in order],
        "colour": [colours[place] for place in order],
    }
    pq.write_table(pa.table(table), path, row_group_size=256)
    return path


def _picture(kind: str, colour: str, draw: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A drawing [3, SIDE, SIDE] somewhere in the image, of some size, turned a little, on a light ground."""
    angle, scale = draw.normal(0, 0.25), draw.uniform(0.26, 0.36) * SIDE
    margin = SIDE / 2 - scale
    across, down = SIDE / 2 + draw.uniform(-margin, margin, 2)
    outline = [
        (
            across + scale * (x * np.cos(angle) - y * np.sin(angle)),
            down + scale * (x * np.sin(angle) + y * np.cos(angle)),
        )
        for x, y in KINDS[kind]
    ]
    ground = tuple(int(value) for value in draw.integers(200, 256, 3))
    ink = tuple(int(np.clip(value + draw.normal(0, 12), 0, 255)) for value in COLOURS[colour])
    image = Image.new("RGB", (SIDE, SIDE), ground)
    ImageDraw.Draw(image).polygon(outline, fill=ink)
    noisy = np.asarray(image) + draw.normal(0, 8, (SIDE, SIDE, 3))
    return np.ascontiguousarray(np.clip(noisy, 0, 255).astype(np.uint8).transpose(2, 0, 1))
