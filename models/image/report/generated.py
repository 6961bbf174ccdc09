"""The report section of a GAN: generated images with Fréchet distance, class fidelity and the rate of copies.

Distances are in the features of the GAN's own feature extractor, trained on this shop's images. They cannot be compared
with the Fréchet inception distances of papers, nor between GANs with different feature extractors.

Shapes: M generated images, N training images, V held-out images, F features.
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
"""With more classes, half of these are the rarest and half the most frequent."""
MAX_IMAGES = 500
"""Maximum number of generated and of held-out images per class."""
MAX_TRAINING = 60_000
"""Maximum number of training images in the search for copies, sampled at regular intervals."""
MIN_IMAGES = 20
"""Minimum number of held-out images of a class for its distances to be reported."""
COPY_QUANTILE = 0.05
"""Quantile of the held-out images' distances to the training images below which an image is a copy."""
NUM_SHOWN = 8
NUM_ROWS = 10
"""Generated images that are shown next to their nearest training image."""


@dataclass(frozen=True)
class GeneratedClass:
    """Generated images of one class and their metrics; NaN if there are too few held-out images."""

    name: str
    num_training: int
    pixels: Tensor
    """[M, C, S, S]."""
    distance: float
    """Fréchet distance between generated and held-out images, see `frechet`."""
    distance_real: float
    """Fréchet distance between training and held-out images: that of a perfect generator."""
    recognised: float
    """Share that the feature extractor classifies as the class."""
    recognised_real: float
    """The same share of the held-out images."""
    copied: float
    """Rate of copies, see `copy_rate`."""
    nearest: tuple[int, Tensor]
    """Index of the generated image that is nearest to a training image, and the training image [C, S, S]."""


def copy_rate(generated_MF: Tensor, training_NF: Tensor, held_out_VF: Tensor) -> float:
    """Share of generated images that are nearer to a training image than 95 % of the held-out images are.

    About 0.05 for new images of the same distribution, 1 for copies of training images.
    """
    threshold = _nearest(held_out_VF, training_NF)[0].quantile(COPY_QUANTILE)
    return float((_nearest(generated_MF, training_NF)[0] < threshold).float().mean())


def generated_classes(
    network: Gan, data: Prepared, split: str, *, schema: Schema, seed: int = 0
) -> list[GeneratedClass]:
    """Generate images of each class, rarest first, and compare them with the training split and a held-out split."""
    training, held_out = (_Features.of_split(network, data, each, schema) for each in ("train", split))
    head, names = next(iter(schema.heads.items()))
    counts = schema.label_counts[head]
    known = [index for index in range(len(names)) if len(training.of(index).rows)]
    order = sorted(known, key=lambda index: (counts[index], index))
    if len(order) > MAX_CLASSES:
        order = order[: MAX_CLASSES // 2] + order[-MAX_CLASSES // 2 :]
    return [
        _generated_class(network, index, names[index], counts[index], training, held_out, seed=seed + index)
        for index in order
    ]


def generated_section(network: Gan, data: Prepared, split: str, *, schema: Schema) -> Section:
    """Generated images of every class with their metrics, and those nearest to a training image."""
    found = generated_classes(network, data, split, schema=schema)
    head = words(next(iter(schema.heads)))
    rows: list[list[Cell]] = []
    for generated_class in found:
        images = tuple(
            _shown(generated_class.pixels[index], f"a generated image of {generated_class.name}")
            for index in range(NUM_SHOWN)
        )
        numbers = (
            generated_class.distance,
            generated_class.distance_real,
            generated_class.recognised,
            generated_class.recognised_real,
            generated_class.copied,
        )
        rows.append([generated_class.name, generated_class.num_training, images, *numbers])
    columns = [
        "Class",
        "Training images",
        "Generated images",
        "FID",
        "FID, real",
        "Fidelity",
        "Fidelity, real",
        "Copies",
    ]
    pairs: list[list[Cell]] = [_pair(generated_class) for generated_class in found[:NUM_ROWS]]
    known = [generated_class.copied for generated_class in found if not math.isnan(generated_class.copied)]
    reading = (
        "Each row shows images generated by the network: check whether they are plausible for the class and diverse, "
        "and in the second table whether they are copies of training images."
    )
    notes = [
        "FID is the Fréchet distance between generated and held-out images in the features of a small classifier that "
        "was trained on this shop's images, in units of their variance. Compare it with the next column, that of real "
        "training images, and not with other models or papers, which use other features.",
        "Fidelity is the share of generated images that this classifier assigns to their class, next to the same share "
        f"of held-out images. Copies are nearer to a training image than {1 - COPY_QUANTILE:.0%} of the held-out "
        f"images are; about {COPY_QUANTILE:.0%} is expected without copying.",
        "The accuracy in this report is that of a second small classifier, trained on generated images only and "
        "evaluated on real ones: the classification accuracy score. The model would serve this classifier; one that is "
        "trained on real images is more accurate.",
    ]
    content: list[Content] = [
        Table("made_by_class", columns, rows, f"By {head}, rarest first"),
        *notes,
        Table("made_and_nearest", ["Class", "Generated and nearest training image"], pairs, "Most similar to training"),
    ]
    return Section("Generated images", reading, content, {"copy_rate": sum(known) / len(known)} if known else {})


@dataclass(frozen=True)
class _Features:
    """Features and predicted classes of some images of a split, without the pixels, as there may be many."""

    images: Pictures
    rows: Tensor
    """Indices into `images`."""
    labels: Tensor
    features: Tensor
    predicted: Tensor

    @classmethod
    def of_split(cls, network: Gan, data: Prepared, split: str, schema: Schema) -> _Features:
        """Every image, or every n-th if there are more than MAX_TRAINING."""
        # In epoch 0 the images are not resampled.
        images = dataset(data, split, range(schema.num_shards), schema=schema, config=network.config, epoch=0)
        rows = list(range(0, len(images), max(1, math.ceil(len(images) / MAX_TRAINING))))
        parts = []
        for start in range(0, len(rows), BLOCK):
            batch = collate([images[row] for row in rows[start : start + BLOCK]])
            parts.append((batch.labels[:, 0], *network.features_and_classes(batch.pixels)))
        labels, features, predicted = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(images, torch.tensor(rows), labels, features, predicted)

    def of(self, index: int, *, at_most: int | None = None) -> _Features:
        """The images of a class, sampled at regular intervals if there are more than `at_most`."""
        chosen = (self.labels == index).nonzero().squeeze(1)
        chosen = chosen[:: max(1, math.ceil(len(chosen) / at_most))] if at_most else chosen
        parts = (part[chosen] for part in (self.rows, self.labels, self.features, self.predicted))
        return _Features(self.images, *parts)

    def pixels(self, index: int) -> Tensor:
        """The pixels of one image."""
        return torch.from_numpy(self.images[int(self.rows[index])].pixels.copy())


def _generated_class(
    network: Gan, index: int, name: str, num_training: int, training: _Features, held_out: _Features, *, seed: int
) -> GeneratedClass:
    real, known = held_out.of(index, at_most=MAX_IMAGES), training.of(index)
    enough = len(real.rows) >= MIN_IMAGES
    pixels = network.generate(torch.full((max(len(real.rows), NUM_SHOWN),), index), seed=seed)
    features, predicted = network.features_and_classes(pixels)
    sample = training.of(index, at_most=len(real.rows) or None)
    distances, indices = _nearest(features, known.features)
    closest = int(distances.argmin())
    return GeneratedClass(
        name=name,
        num_training=num_training,
        pixels=pixels,
        distance=frechet(moments(real.features), moments(features)) if enough else math.nan,
        distance_real=frechet(moments(real.features), moments(sample.features)) if enough else math.nan,
        recognised=float((predicted == index).float().mean()),
        recognised_real=float((real.predicted == index).float().mean()) if enough else math.nan,
        copied=copy_rate(features, known.features, real.features) if enough else math.nan,
        nearest=(closest, known.pixels(int(indices[closest]))),
    )


def _nearest(vectors: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest of other vectors, and its index."""
    # Computed by matrix products, the distance of equal vectors would not be exactly 0.
    found = torch.cdist(vectors, among, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def _pair(generated_class: GeneratedClass) -> list[Cell]:
    index, training = generated_class.nearest
    generated = _shown(generated_class.pixels[index], f"a generated image of {generated_class.name}", "generated")
    return [
        generated_class.name,
        (generated, _shown(training, f"the nearest training image of {generated_class.name}", "training")),
    ]


def _shown(pixels: Tensor, text: str, caption: str = "") -> Picture:
    return thumbnail(pixels.numpy(), text, caption)
