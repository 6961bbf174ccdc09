"""Datasets and batches of prepared images, without augmentation, which the networks apply."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.arrays import load_array
from models.image.codec import Pixels, fit
from models.image.schema import MISSING, SPLITS, UNKNOWN, Schema
from models.prepared import Prepared

GOLDEN_RATIO = 0.618034
"""The fractional parts of its multiples are evenly spread."""

Labels = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Picture:
    """One image: an example for training, evaluation or prediction."""

    pixels: Pixels
    """[C, S, S]."""
    labels: Labels
    """[H] class of each head, or MISSING."""
    title: Labels | None = None
    """[T] tokens of the product's title, see `models.image.text.titles`; None without titles."""
    threshold: float = math.inf
    """Confidence that an attribute needs in order to appear in a learned title; infinity if no title is requested."""


@dataclass(frozen=True)
class Batch:
    """B images: pixels uint8 [B, C, S, S], labels int64 [B, H] and, with titles, their tokens int64 [B, T]."""

    pixels: Tensor
    labels: Tensor
    titles: Tensor | None = None
    thresholds: tuple[float, ...] = ()
    """[B], or empty if no title is requested."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        titles = None if self.titles is None else self.titles.to(device, non_blocking=True)
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in (self.pixels, self.labels))
        return replace(self, pixels=pixels, labels=labels, titles=titles)

    def pin_memory(self) -> Self:
        """The same batch in memory from which a GPU copies while it computes."""
        titles = None if self.titles is None else self.titles.pin_memory()
        return replace(self, pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory(), titles=titles)


@dataclass(frozen=True)
class Shard:
    """The memory-mapped images of one shard."""

    pixels: Pixels
    labels: Labels
    titles: Labels | None = None

    @classmethod
    def open(cls, data: Prepared, shard: int) -> Self:
        """Map one shard of a prepared data directory."""
        directory = data.shard(shard)
        # As plain arrays: indexing a memmap object is ten times slower.
        names = ["pictures", "labels", *(["titles"] if (directory / "titles.npy").exists() else [])]
        maps = [np.asarray(load_array(directory / f"{name}.npy", mmap=True)) for name in names]
        return cls(*maps)


def dataset(data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Any, epoch: int) -> Pictures:
    """The images of some shards of a split, with the image size and classes of `schema`.

    Training epochs are resampled by `balance`, without a change of their length; epoch 0 never is.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    own = data.schema(Schema)
    indices = [load_array(data.shard(shard) / f"{split}.npy") for shard in shards]
    opened = [Shard.open(data, shard) for shard in shards]
    shard_of = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
    row_of = np.concatenate([*indices, np.zeros(0, np.int64)])
    balance = _balance(config) if split == "train" and epoch and len(row_of) else 0.0
    if balance:
        labels = np.concatenate([shard.labels[index, 0] for shard, index in zip(opened, indices, strict=True)])
        chosen = balanced(labels, next(iter(own.label_counts.values())), balance=balance, epoch=epoch)
        shard_of, row_of = shard_of[chosen], row_of[chosen]
    return Pictures(
        opened,
        shard_of=shard_of.tolist(),
        row_of=row_of.tolist(),
        remap=None if own.fingerprint == schema.fingerprint else Remap.between(own, schema),
    )


class Pictures:
    """Labelled images of one split, in the order of their shards."""

    def __init__(self, shards: Sequence[Shard], *, shard_of: list[int], row_of: list[int], remap: Remap | None) -> None:
        self._shards = shards
        self._shard_of = shard_of
        self._row_of = row_of
        self._remap = remap

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, index: int) -> Picture:
        shard, row = self._shards[self._shard_of[index]], self._row_of[index]
        title = None if shard.titles is None else shard.titles[row]
        image = Picture(shard.pixels[row], shard.labels[row], title)
        return image if self._remap is None else self._remap(image)


@dataclass(frozen=True)
class Remap:
    """Converts images of newer data to the schema of an older model."""

    schema: Schema
    """The model's."""
    heads: Sequence[int]
    """Index of each head of the model among the heads of the data, or MISSING."""
    classes: Sequence[Labels]
    """For each head of the model: class of the data -> class of the model; the last entry maps MISSING."""

    @classmethod
    def between(cls, own: Schema, schema: Schema) -> Self | None:
        """From the data's schema to the model's; None if they agree. Classes that the model lacks are UNKNOWN."""
        forms = (own.heads, own.forms, own.size, own.channels)
        if forms == (schema.heads, schema.forms, schema.size, schema.channels):
            return None
        names = list(own.heads)
        heads = [names.index(head) if head in own.heads else MISSING for head in schema.heads]
        classes = []
        for head, known in schema.heads.items():
            index_of = {name: index for index, name in enumerate(known)}
            found = [index_of.get(name, UNKNOWN) for name in own.heads.get(head, [])]
            classes.append(np.array([*found, MISSING], np.int16))
        return cls(schema, heads, classes)

    def __call__(self, image: Picture) -> Picture:
        labels = [
            classes[image.labels[head]] if head != MISSING else MISSING
            for head, classes in zip(self.heads, self.classes, strict=True)
        ]
        return Picture(fitted(image.pixels, self.schema), np.array(labels, np.int16))


def collate(examples: Sequence[Picture]) -> Batch:
    """Stack examples into a batch; see Batch for the shapes."""
    titles = [example.title for example in examples if example.title is not None]
    thresholds = tuple(example.threshold for example in examples)
    return Batch(
        pixels=torch.from_numpy(np.stack([example.pixels for example in examples])),
        labels=torch.from_numpy(np.stack([example.labels for example in examples])).long(),
        titles=torch.from_numpy(np.stack(titles)).long() if len(titles) == len(examples) else None,
        thresholds=thresholds if min(thresholds) < math.inf else (),
    )


def balanced(labels: Labels, counts: Sequence[int], *, balance: float, epoch: int) -> npt.NDArray[np.int64]:
    """Indices [N] of resampled examples; the weight of an example is its class count to the power of -`balance`.

    Systematic sampling: within an epoch each example's count differs from its expectation by less than one, and over
    epochs the average converges to it.
    """
    weights = np.asarray(counts, np.float64).clip(1)[labels.clip(0)] ** -balance
    weights[labels < 0] = weights.mean()
    ends = weights.cumsum()
    drawn = (np.arange(len(labels)) + epoch * GOLDEN_RATIO % 1) * (ends[-1] / len(labels))
    indices: npt.NDArray[np.int64] = np.searchsorted(ends, drawn, side="right")
    return indices


def catalogue(data: Prepared) -> Iterator[tuple[list[str], Pixels]]:
    """Item ids and pixels [N, C, S, S] of each shard's images that belong to a product, labelled or not."""
    for directory in data.shards():
        items = pq.read_table(directory / "ids.parquet", columns=["item_id"])["item_id"].to_pylist()
        pixels = Shard.open(data, int(directory.name)).pixels
        rows = [row for row, item in enumerate(items) if item is not None]
        yield [items[row] for row in rows], pixels[rows]


def titles(data: Prepared, split: str) -> list[str | None]:
    """The shop's title of each image of a split, in the order of `dataset`; None without a title."""
    found: list[str | None] = []
    for directory in data.shards():
        known = pq.read_table(directory / "ids.parquet").to_pydict()
        rows = load_array(directory / f"{split}.npy").tolist()
        found += [known["title"][row] if "title" in known else None for row in rows]
    return found


def fitted(pixels: Pixels, schema: Schema) -> Pixels:
    """Prepared pixels [C, S, S] converted to the image size and channels of a schema."""
    if pixels.shape == (schema.channels, schema.size, schema.size):
        return pixels
    plain = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return fit(plain, size=schema.size, channels=schema.channels)


def _balance(config: Any) -> float:
    """The configured `balance`, or its default for the network."""
    if config.balance is None:
        return 1.0 if config.network == "gan" else 0.0
    return float(config.balance)
