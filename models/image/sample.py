"""A synthetic catalogue of simple drawings, labelled with type and colour, for the demo and the tests."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from models.image.codec import encode_png
from models.sample import Question, Sample

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
"""Polygons in -1 .. 1; x to the right, y down."""
COLOURS = {
    **{"Red": (200, 40, 40), "Green": (50, 150, 60), "Blue": (50, 70, 190), "Black": (40, 40, 40)},
    **{"Yellow": (230, 200, 50)},
}
SIDE = 32
NUM_PRODUCTS = 1200
BAD, DUPLICATES = 4, 6
"""Unreadable and duplicate images, as they occur in real catalogues."""


def sample(directory: Path) -> Sample:
    """A small synthetic catalogue for the demo, with images for requests to its endpoint."""
    table = write_sample(directory)
    generator = np.random.default_rng(1)
    questions = []
    for kind, colour in (("Shirts", "Red"), ("Bags", "Blue")):
        image = base64.b64encode(encode_png(_drawing(kind, colour, generator))).decode("ascii")
        questions.append(Question(f"a new image of {kind.lower()}", {"image": image}, f"{kind}, {colour}"))
    return Sample(
        prepare={"raw": str(table), "labels": ("type", "colour")},
        train={"network": "cnn", "epochs": 12, "batch_size": 16},
        questions=questions,
    )


def write_sample(directory: Path, *, num_products: int = NUM_PRODUCTS, seed: int = 0) -> Path:
    """Write catalogue.parquet (item_id, image, type, colour) into a directory; deterministic."""
    generator = np.random.default_rng(seed)
    kinds = [list(KINDS)[index] for index in generator.integers(len(KINDS), size=num_products)]
    colours = [list(COLOURS)[index] for index in generator.integers(len(COLOURS), size=num_products)]
    images = [encode_png(_drawing(kind, colour, generator)) for kind, colour in zip(kinds, colours, strict=True)]
    bad = [image[: len(image) // 2] for image in images[:BAD]]
    order = [*range(num_products), *range(BAD), *range(DUPLICATES)]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "catalogue.parquet"
    table = {
        "item_id": [f"item-{index:05d}" for index in range(len(order))],
        "image": [*images, *bad, *images[:DUPLICATES]],
        "type": [kinds[index] for index in order],
        "colour": [colours[index] for index in order],
    }
    pq.write_table(pa.table(table), path, row_group_size=256)
    return path


def _drawing(kind: str, colour: str, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A drawing [3, SIDE, SIDE] at a random position, scale and angle on a light background."""
    angle, scale = generator.normal(0, 0.25), generator.uniform(0.26, 0.36) * SIDE
    margin = SIDE / 2 - scale
    across, down = SIDE / 2 + generator.uniform(-margin, margin, 2)
    outline = [
        (
            across + scale * (x * np.cos(angle) - y * np.sin(angle)),
            down + scale * (x * np.sin(angle) + y * np.cos(angle)),
        )
        for x, y in KINDS[kind]
    ]
    background = tuple(int(value) for value in generator.integers(200, 256, 3))
    foreground = tuple(int(np.clip(value + generator.normal(0, 12), 0, 255)) for value in COLOURS[colour])
    image = Image.new("RGB", (SIDE, SIDE), background)
    ImageDraw.Draw(image).polygon(outline, fill=foreground)
    noisy = np.asarray(image) + generator.normal(0, 8, (SIDE, SIDE, 3))
    return np.ascontiguousarray(np.clip(noisy, 0, 255).astype(np.uint8).transpose(2, 0, 1))
