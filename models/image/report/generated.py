"""What made images are worth: how far they are from real ones, of which class they are, and whether they are copies.

Distances are between features of the gan's own reader, trained on this shop's images. They say nothing beside the
Fréchet inception distances of papers, and little beside those of a gan with another reader.

Shapes: M made images, N training images, V held-out images, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.image.data import Pictures, collate, dataset
from models.image.networks.frechet import frechet, moments
from models.image.networks.gan import BLOCK, Gan
from models.image.report.predictions import words
from models.image.report.thumbnails import thumbnail
from models.image.schema import Schema
from models.prepared import Prepared
from models.report import Cell, Content, Picture, Section, Table

MAX_CLASSES = 20
"""Of more classes the rarest half and the most frequent half of so many are looked at."""
MAX_IMAGES = 500
"""Of a class that are made, and held-out ones that they are compared with."""
MAX_TRAINING = 60_000
"""Training images, evenly chosen, among which copies are looked for."""
MIN_IMAGES = 20
"""Held-out images of a class below which it says nothing of distances."""
ORDINARY = 0.05
"""Share of the held-out images that are as near to a training image as what is called a copy."""
NUM_SHOWN = 8
NUM_ROWS = 10
"""Made images that are shown beside the training image most like them."""


@dataclass(frozen=True)
class GeneratedClass:
    """What was made of one class, and how it compares with its held-out images; NaN where those are too few."""

    name: str
    num_training: int
    pixels: Tensor
    """[M, C, S, S]."""
    distance: float
    """Fréchet distance between made and held-out images, see `frechet`."""
    distance_real: float
    """The same between training and held-out images: what a perfect gan would have."""
    recognised: float
    """Share that the reader takes for the class."""
    recognised_real: float
    """The same of the held-out images."""
    copied: float
    """Share of copies, see `copy_rate`."""
    nearest: tuple[int, Tensor]
    """The made image that is nearest to a training image, and that one [C, S, S]."""


def copy_rate(generated_MF: Tensor, training_NF: Tensor, held_VF: Tensor) -> float:
    """Share of made images that are nearer to a training image than all but 5 % of the held-out images are.

    New images of the same kind would have about 0.05, copies of training images have 1.
    """
    usual = _nearest(held_VF, training_NF)[0].quantile(ORDINARY)
    return float((_nearest(generated_MF, training_NF)[0] < usual).float().mean())


def generated_classes(
    network: Gan, data: Prepared, split: str, *, schema: Schema, seed: int = 0
) -> list[GeneratedClass]:
    """Make images of each class, rarest first, and compare them with those of a split and of training."""
    training, held = (_Features.of_split(network, data, each, schema) for each in ("train", split))
    head, names = next(iter(schema.heads.items()))
    counts = schema.label_counts[head]
    known = [place for place in range(len(names)) if len(training.of(place).rows)]
    order = sorted(known, key=lambda place: (counts[place], place))
    if len(order) > MAX_CLASSES:
        order = order[: MAX_CLASSES // 2] + order[-MAX_CLASSES // 2 :]
    return [
        _generated_class(network, place, names[place], counts[place], training, held, seed=seed + place)
        for place in order
    ]


def generated_section(network: Gan, data: Prepared, split: str, *, schema: Schema) -> Section:
    """A row of made images of every class with what they are worth, and those most like a training image."""
    found = generated_classes(network, data, split, schema=schema)
    head = words(next(iter(schema.heads)))
    rows: list[list[Cell]] = []
    for one in found:
        images = tuple(_shown(one.pixels[place], f"a made image of {one.name}") for place in range(NUM_SHOWN))
        numbers = (one.distance, one.distance_real, one.recognised, one.recognised_real, one.copied)
        rows.append([one.name, one.num_training, images, *numbers])
    columns = ["Class", "Trained on", "Made images", "FID", "FID, real", "Recognised", "Recognised, real", "Copies"]
    pairs: list[list[Cell]] = [_pair(one) for one in found[:NUM_ROWS]]
    known = [one.copied for one in found if not math.isnan(one.copied)]
    reading = (
        "The images of each row were made by the network; look whether they could be of this class and differ from "
        "each other, and below whether they merely repeat a training image."
    )
    notes = [
        "FID is the Fréchet distance between made and held-out images in features of a small classifier that was "
        "trained on this shop's images, in units of their variance. Compare it with the column beside it, that of "
        "real training images, and not with numbers of other models or papers, which rest on other features.",
        "Recognised: how many that classifier takes for the class, beside the share of the real held-out images. "
        f"Copies: how many are nearer to a training image than all but {ORDINARY:.0%} of the held-out images are; "
        f"about {ORDINARY:.0%} is as it should be.",
        "The accuracy of this page is that of a second small classifier, trained on made images alone and judged on "
        "real ones. It says how much of the classes the made images teach, and it is what this model would answer "
        "with if it were served; a classifier trained on the real images answers better.",
    ]
    content: list[Content] = [
        Table("made_by_class", columns, rows, f"By {head}, rarest first"),
        *notes,
        Table("made_and_nearest", ["Class", "Made, and the training image most like it"], pairs, "Nearest to a copy"),
    ]
    return Section("Made images", reading, content, {"copy_rate": sum(known) / len(known)} if known else {})


@dataclass(frozen=True)
class _Features:
    """Some images of a split as the reader sees them; only their features are kept, for there may be many."""

    images: Pictures
    rows: Tensor
    """Their places among the images."""
    labels: Tensor
    features: Tensor
    predicted: Tensor

    @classmethod
    def of_split(cls, network: Gan, data: Prepared, split: str, schema: Schema) -> _Features:
        """Every image, or every n-th where there are more than MAX_TRAINING."""
        # As in epoch 0, in which every image comes once.
        images = dataset(data, split, range(schema.num_shards), schema=schema, config=network.config, epoch=0)
        rows = list(range(0, len(images), max(1, math.ceil(len(images) / MAX_TRAINING))))
        parts = []
        for start in range(0, len(rows), BLOCK):
            batch = collate([images[row] for row in rows[start : start + BLOCK]])
            parts.append((batch.labels[:, 0], *network.features_and_classes(batch.pixels)))
        labels, features, predicted = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(images, torch.tensor(rows), labels, features, predicted)

    def of(self, place: int, *, at_most: int | None = None) -> _Features:
        """Those of a class, evenly chosen where there are more than wanted."""
        chosen = (self.labels == place).nonzero().squeeze(1)
        chosen = chosen[:: max(1, math.ceil(len(chosen) / at_most))] if at_most else chosen
        parts = (part[chosen] for part in (self.rows, self.labels, self.features, self.predicted))
        return _Features(self.images, *parts)

    def pixels(self, place: int) -> Tensor:
        """Of one of them."""
        return torch.from_numpy(self.images[int(self.rows[place])].pixels.copy())


def _generated_class(
    network: Gan, place: int, name: str, num_training: int, training: _Features, held: _Features, *, seed: int
) -> GeneratedClass:
    real, known = held.of(place, at_most=MAX_IMAGES), training.of(place)
    enough = len(real.rows) >= MIN_IMAGES
    pixels = network.generate(torch.full((max(len(real.rows), NUM_SHOWN),), place), seed=seed)
    features, predicted = network.features_and_classes(pixels)
    few = training.of(place, at_most=len(real.rows) or None)
    distances, places = _nearest(features, known.features)
    closest = int(distances.argmin())
    return GeneratedClass(
        name=name,
        num_training=num_training,
        pixels=pixels,
        distance=frechet(moments(real.features), moments(features)) if enough else math.nan,
        distance_real=frechet(moments(real.features), moments(few.features)) if enough else math.nan,
        recognised=float((predicted == place).float().mean()),
        recognised_real=float((real.predicted == place).float().mean()) if enough else math.nan,
        copied=copy_rate(features, known.features, real.features) if enough else math.nan,
        nearest=(closest, known.pixels(int(places[closest]))),
    )


def _nearest(vectors: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of others, and its place."""
    # By way of a product, equal vectors would have a distance that is not 0.
    found = torch.cdist(vectors, among, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def _pair(one: GeneratedClass) -> list[Cell]:
    place, training = one.nearest
    generated = _shown(one.pixels[place], f"a made image of {one.name}", "made")
    return [one.name, (generated, _shown(training, f"the training image of {one.name} most like it", "training"))]


def _shown(pixels: Tensor, text: str, caption: str = "") -> Picture:
    return thumbnail(pixels.numpy(), text, caption)
