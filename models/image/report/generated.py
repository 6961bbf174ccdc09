"""What made pictures are worth: how far they are from real ones, of which class they are, and whether they are copies.

Distances are between features of the gan's own reader, trained on this shop's pictures. They say nothing beside the
Fréchet inception distances of papers, and little beside those of a gan with another reader.

Shapes: M made pictures, N training pictures, V held-out pictures, F features.
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
from models.sampling import evenly

MAX_CLASSES = 20
"""Of more classes the rarest half and the most frequent half of so many are looked at."""
MAX_PICTURES = 500
"""Of a class that are made, and held-out ones that they are compared with."""
MAX_TRAINING = 60_000
"""Training pictures, evenly chosen, among which copies are looked for."""
MIN_PICTURES = 20
"""Held-out pictures of a class below which it says nothing of distances."""
USUAL = 0.05
"""Share of the held-out pictures that are as near to a training picture as what is called a copy."""
NUM_SHOWN = 8
NUM_ROWS = 10
"""Made pictures that are shown beside the training picture most like them."""


@dataclass(frozen=True)
class MadeClass:
    """What was made of one class, and how it compares with its held-out pictures; NaN where those are too few."""

    name: str
    num_training: int
    pixels: Tensor
    """[M, C, S, S]."""
    distance: float
    """Fréchet distance between made and held-out pictures, see `frechet`."""
    distance_real: float
    """The same between training and held-out pictures: what a perfect gan would have."""
    recognised: float
    """Share that the reader takes for the class."""
    recognised_real: float
    """The same of the held-out pictures."""
    copied: float
    """Share of copies, see `copy_rate`."""
    nearest: tuple[int, Tensor]
    """The made picture that is nearest to a training picture, and that one [C, S, S]."""


def copy_rate(made_MF: Tensor, training_NF: Tensor, held_VF: Tensor) -> float:
    """Share of made pictures that are nearer to a training picture than all but 5 % of the held-out pictures are.

    New pictures of the same kind would have about 0.05, copies of training pictures have 1.
    """
    usual = _nearest(held_VF, training_NF)[0].quantile(USUAL)
    return float((_nearest(made_MF, training_NF)[0] < usual).float().mean())


def made_classes(network: Gan, data: Prepared, split: str, *, schema: Schema, seed: int = 0) -> list[MadeClass]:
    """Make pictures of each class, rarest first, and compare them with those of a split and of training."""
    training, held = (_Seen.of_split(network, data, each, schema) for each in ("train", split))
    head, names = next(iter(schema.heads.items()))
    counts = schema.label_counts[head]
    known = [place for place in range(len(names)) if len(training.of(place).rows)]
    order = sorted(known, key=lambda place: (counts[place], place))
    if len(order) > MAX_CLASSES:
        order = order[: MAX_CLASSES // 2] + order[-MAX_CLASSES // 2 :]
    return [
        _made_class(network, place, names[place], counts[place], training, held, seed=seed + place) for place in order
    ]


def made_section(network: Gan, data: Prepared, split: str, *, schema: Schema) -> Section:
    """A row of made pictures of every class with what they are worth, and those most like a training picture."""
    found = made_classes(network, data, split, schema=schema)
    head = words(next(iter(schema.heads)))
    rows: list[list[Cell]] = []
    for one in found:
        pictures = tuple(_shown(one.pixels[place], f"a made picture of {one.name}") for place in range(NUM_SHOWN))
        numbers = (one.distance, one.distance_real, one.recognised, one.recognised_real, one.copied)
        rows.append([one.name, one.num_training, pictures, *numbers])
    columns = ["Class", "Trained on", "Made pictures", "FID", "FID, real", "Recognised", "Recognised, real", "Copies"]
    pairs: list[list[Cell]] = [_pair(one) for one in found[:NUM_ROWS]]
    known = [one.copied for one in found if not math.isnan(one.copied)]
    reading = (
        "The pictures of each row were made by the network; look whether they could be of this class and differ from "
        "each other, and below whether they merely repeat a training picture."
    )
    notes = [
        "FID is the Fréchet distance between made and held-out pictures in features of a small classifier that was "
        "trained on this shop's pictures, in units of their variance. Compare it with the column beside it, that of "
        "real training pictures, and not with numbers of other models or papers, which rest on other features.",
        "Recognised: how many that classifier takes for the class, beside the share of the real held-out pictures. "
        f"Copies: how many are nearer to a training picture than all but {USUAL:.0%} of the held-out pictures are; "
        f"about {USUAL:.0%} is as it should be.",
        "The accuracy of this page is that of a second small classifier, trained on made pictures alone and judged on "
        "real ones. It says how much of the classes the made pictures teach, and it is what this model would answer "
        "with if it were served; a recogniser trained on the real pictures answers better.",
    ]
    content: list[Content] = [
        Table("made_by_class", columns, rows, f"By {head}, rarest first"),
        *notes,
        Table("made_and_nearest", ["Class", "Made, and the training picture most like it"], pairs, "Nearest to a copy"),
    ]
    return Section("Made pictures", reading, content, {"copy_rate": sum(known) / len(known)} if known else {})


@dataclass(frozen=True)
class _Seen:
    """Some pictures of a split as the reader sees them; only their features are kept, for there may be many."""

    pictures: Pictures
    rows: Tensor
    """Their places among the pictures."""
    labels: Tensor
    features: Tensor
    said: Tensor

    @classmethod
    def of_split(cls, network: Gan, data: Prepared, split: str, schema: Schema) -> _Seen:
        """Every picture, or every n-th where there are more than MAX_TRAINING."""
        # As in epoch 0, in which every picture comes once.
        pictures = dataset(data, split, range(schema.num_shards), schema=schema, config=network.config, epoch=0)
        rows = evenly(range(len(pictures)), MAX_TRAINING)
        parts = []
        for start in range(0, len(rows), BLOCK):
            batch = collate([pictures[row] for row in rows[start : start + BLOCK]])
            parts.append((batch.labels[:, 0], *network.read(batch.pixels)))
        labels, features, said = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(pictures, torch.tensor(rows), labels, features, said)

    def of(self, place: int, *, at_most: int | None = None) -> _Seen:
        """Those of a class, evenly chosen where there are more than wanted."""
        chosen = (self.labels == place).nonzero().flatten().tolist()
        chosen = evenly(chosen, at_most) if at_most else chosen
        parts = (part[chosen] for part in (self.rows, self.labels, self.features, self.said))
        return _Seen(self.pictures, *parts)

    def pixels(self, place: int) -> Tensor:
        """Of one of them."""
        return torch.from_numpy(self.pictures[int(self.rows[place])].pixels.copy())


def _made_class(
    network: Gan, place: int, name: str, num_training: int, training: _Seen, held: _Seen, *, seed: int
) -> MadeClass:
    real, known = held.of(place, at_most=MAX_PICTURES), training.of(place)
    enough = len(real.rows) >= MIN_PICTURES
    pixels = network.make(torch.full((max(len(real.rows), NUM_SHOWN),), place), seed=seed)
    features, said = network.read(pixels)
    few = training.of(place, at_most=len(real.rows) or None)
    distances, places = _nearest(features, known.features)
    closest = int(distances.argmin())
    return MadeClass(
        name=name,
        num_training=num_training,
        pixels=pixels,
        distance=frechet(moments(real.features), moments(features)) if enough else math.nan,
        distance_real=frechet(moments(real.features), moments(few.features)) if enough else math.nan,
        recognised=float((said == place).float().mean()),
        recognised_real=float((real.said == place).float().mean()) if enough else math.nan,
        copied=copy_rate(features, known.features, real.features) if enough else math.nan,
        nearest=(closest, known.pixels(int(places[closest]))),
    )


def _nearest(vectors: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of others, and its place."""
    # By way of a product, equal vectors would have a distance that is not 0.
    found = torch.cdist(vectors, among, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def _pair(one: MadeClass) -> list[Cell]:
    place, training = one.nearest
    made = _shown(one.pixels[place], f"a made picture of {one.name}", "made")
    return [one.name, (made, _shown(training, f"the training picture of {one.name} most like it", "training"))]


def _shown(pixels: Tensor, text: str, caption: str = "") -> Picture:
    return thumbnail(pixels.numpy(), text, caption)
