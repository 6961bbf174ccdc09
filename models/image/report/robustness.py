"""How many pictures are still recognised when they are blurred, cropped, turned or compressed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from models.image.data import Batch
from models.image.networks.classifier import Recogniser
from models.image.report.predictions import BLOCK, Answers, words
from models.image.report.thumbnails import as_image, as_pixels, thumbnail
from models.report import Cell, Section, Table
from models.sampling import evenly

MAX_PICTURES = 1000
USUAL_SIDE = 112
"""Of larger pictures fewer are taken, so that the time stays the same."""
MIN_PICTURES = 50


@dataclass(frozen=True)
class Change:
    """One way to make a picture harder."""

    kind: Literal["blur", "crop", "rotation", "compression"]
    level: int
    """1 is the mildest."""
    strength: float
    """Radius of the blur and share of the side that is kept, as shares of the side; degrees; quality of the JPEG."""

    @property
    def title(self) -> str:
        """What is done, for people."""
        match self.kind:
            case "blur":
                return f"Blurred, radius {self.strength:.0%} of the side"
            case "crop":
                return f"Cropped to the middle {self.strength:.0%} of each side"
            case "rotation":
                return f"Turned by {self.strength:g} degrees"
            case "compression":
                return f"JPEG of quality {self.strength:g}"

    def apply(self, image: Image.Image) -> Image.Image:
        """The harder picture, of the same size and colours."""
        side = image.width
        match self.kind:
            case "blur":
                return image.filter(ImageFilter.GaussianBlur(self.strength * side))
            case "crop":
                margin = (1 - self.strength) * side / 2
                box = (margin, margin, side - margin, side - margin)
                return image.resize(image.size, Resampling.BICUBIC, box=box)
            case "rotation":
                return image.rotate(self.strength, Resampling.BICUBIC, fillcolor=_border_colour(image))
            case "compression":
                file = BytesIO()
                image.save(file, format="JPEG", quality=round(self.strength))
                return Image.open(file, formats=["JPEG"]).convert(image.mode)


STRENGTHS: dict[Literal["blur", "crop", "rotation", "compression"], tuple[float, ...]] = {
    "blur": (0.01, 0.02, 0.04),
    "crop": (0.9, 0.8, 0.65),
    "rotation": (5, 15, 30),
    "compression": (50, 20, 5),
}
CHANGES = [Change(kind, level, each) for kind, some in STRENGTHS.items() for level, each in enumerate(some, 1)]


def robustness(network: Recogniser, found: Answers) -> Section:
    """Accuracy of the first head on the same pictures under each of CHANGES."""
    head = next(iter(found.schema.heads))
    known = found.known(head).tolist()
    room = max(MIN_PICTURES, min(MAX_PICTURES, round(MAX_PICTURES * (USUAL_SIDE / found.schema.size) ** 2)))
    places = evenly(known, room)
    batch = found.batch(places)
    images = [as_image(pixels) for pixels in batch.pixels.numpy()]
    shown = next((place for place, row in enumerate(places) if _is_right(found, head, row)), 0)
    plain = _accuracy(network, batch)
    example = thumbnail(as_pixels(images[shown]), f"{found.names[places[shown]]}, unchanged")
    rows: list[list[Cell]] = [["Unchanged", plain, 0.0, (example,)]]
    numbers = {}
    for change in CHANGES:
        harder = np.stack([as_pixels(change.apply(image)) for image in images])
        accuracy = _accuracy(network, Batch(torch.from_numpy(harder), batch.labels))
        example = thumbnail(harder[shown], f"The same picture. {change.title}")
        rows.append([change.title, accuracy, accuracy - plain, (example,)])
        numbers[f"accuracy_under_{change.kind}_{change.level}"] = accuracy
    columns = ["What is done to the pictures", "Accuracy", "Difference", "For example"]
    reading = (
        "The same pictures are judged again after something was done to them that happens to photos on their way to a "
        "shop; what costs much should be avoided, or be among the training pictures."
    )
    error = math.sqrt(plain * (1 - plain) / len(places))
    size = (
        f"{words(head)} of {len(places):,} pictures, evenly chosen; one standard error of an accuracy is {error:.3f}."
    )
    return Section("What disturbs it", reading, [f"Judged by {size}", Table("robustness", columns, rows)], numbers)


def _accuracy(network: Recogniser, batch: Batch) -> float:
    """Of the first head."""
    right = total = 0.0
    with torch.inference_mode():
        for start in range(0, len(batch.labels), BLOCK):
            block = Batch(batch.pixels[start : start + BLOCK], batch.labels[start : start + BLOCK])
            share = network.evaluate(block).ratios["accuracy"]
            right += float(share.numerator.sum())
            total += float(share.denominator.sum())
    return right / total


def _is_right(found: Answers, head: str, place: int) -> bool:
    return int(found.probabilities[head][place].argmax()) == int(found.labels_of(head)[place])


def _border_colour(image: Image.Image) -> int | tuple[int, ...]:
    """The median colour of the outermost pixels, as `prepare` fills with."""
    pixels = as_pixels(image)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    colour = tuple(int(value) for value in np.median(border, axis=1))
    return colour[0] if len(colour) == 1 else colour
