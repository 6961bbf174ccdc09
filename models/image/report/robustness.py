"""The report section with the accuracy under blur, crop, rotation and compression."""

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
from models.image.networks.classifier import Classifier
from models.image.report.predictions import BLOCK, SplitPredictions, words
from models.image.report.thumbnails import as_image, as_pixels, thumbnail
from models.report import Cell, Section, Table
from models.sampling import evenly

MAX_IMAGES = 1000
REFERENCE_SIDE = 112
"""Fewer images are used if they are larger, at the same computing time."""
MIN_IMAGES = 50


@dataclass(frozen=True)
class Corruption:
    """A corruption of images at one severity."""

    kind: Literal["blur", "crop", "rotation", "compression"]
    level: int
    """Severity; 1 is the mildest."""
    strength: float
    """Blur: radius as a fraction of the side; crop: fraction of the side that is kept; degrees; JPEG quality."""

    @property
    def title(self) -> str:
        """Description for display."""
        match self.kind:
            case "blur":
                return f"Blurred, radius {self.strength:.0%} of the side"
            case "crop":
                return f"Centre crop to {self.strength:.0%} of each side"
            case "rotation":
                return f"Rotated by {self.strength:g} degrees"
            case "compression":
                return f"JPEG of quality {self.strength:g}"

    def apply(self, image: Image.Image) -> Image.Image:
        """The corrupted image, of the same size and mode."""
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
CORRUPTIONS = [Corruption(kind, level, each) for kind, some in STRENGTHS.items() for level, each in enumerate(some, 1)]


def robustness(network: Classifier, predictions: SplitPredictions) -> Section:
    """Accuracy of the first head on the same images under each of CORRUPTIONS."""
    head = next(iter(predictions.schema.heads))
    known = predictions.known(head).tolist()
    num_images = max(MIN_IMAGES, min(MAX_IMAGES, round(MAX_IMAGES * (REFERENCE_SIDE / predictions.schema.size) ** 2)))
    indices = evenly(known, num_images)
    batch = predictions.batch(indices)
    images = [as_image(pixels) for pixels in batch.pixels.numpy()]
    shown = next((index for index, row in enumerate(indices) if _is_correct(predictions, head, row)), 0)
    baseline_accuracy = _accuracy(network, batch)
    example = thumbnail(as_pixels(images[shown]), f"{predictions.names[indices[shown]]}, unchanged")
    rows: list[list[Cell]] = [["Unchanged", baseline_accuracy, 0.0, (example,)]]
    numbers = {}
    for corruption in CORRUPTIONS:
        corrupted = np.stack([as_pixels(corruption.apply(image)) for image in images])
        accuracy = _accuracy(network, Batch(torch.from_numpy(corrupted), batch.labels))
        example = thumbnail(corrupted[shown], f"The same image. {corruption.title}")
        rows.append([corruption.title, accuracy, accuracy - baseline_accuracy, (example,)])
        numbers[f"accuracy_under_{corruption.kind}_{corruption.level}"] = accuracy
    columns = ["Corruption", "Accuracy", "Difference", "Example"]
    reading = (
        "Accuracy on the same images after typical corruptions of product photos; those that cost much accuracy should "
        "be avoided, or be represented in the training images."
    )
    error = math.sqrt(baseline_accuracy * (1 - baseline_accuracy) / len(indices))
    size = f"{words(head)} of {len(indices):,} images; one standard error of an accuracy is {error:.3f}."
    return Section("Robustness", reading, [f"Evaluated on {size}", Table("robustness", columns, rows)], numbers)


def _accuracy(network: Classifier, batch: Batch) -> float:
    """Accuracy of the first head."""
    correct = total = 0.0
    with torch.inference_mode():
        for start in range(0, len(batch.labels), BLOCK):
            block = Batch(batch.pixels[start : start + BLOCK], batch.labels[start : start + BLOCK])
            share = network.evaluate(block).ratios["accuracy"]
            correct += float(share.numerator.sum())
            total += float(share.denominator.sum())
    return correct / total


def _is_correct(predictions: SplitPredictions, head: str, index: int) -> bool:
    return int(predictions.probabilities[head][index].argmax()) == int(predictions.labels_of(head)[index])


def _border_colour(image: Image.Image) -> int | tuple[int, ...]:
    """The median colour of the outermost pixels, with which `prepare` pads, too."""
    pixels = as_pixels(image)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    colour = tuple(int(value) for value in np.median(border, axis=1))
    return colour[0] if len(colour) == 1 else colour
