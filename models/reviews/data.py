"""Prepared reviews as examples and batches: the characters of a text, and its hashed n-grams."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.arrays import load_array
from models.family import Dataset
from models.prepared import Prepared
from models.reviews.config import Config, pretraining_epochs
from models.reviews.grams import Codes, present
from models.reviews.schema import UNLABELLED, WITHOUT_CLASS, Schema

HEAD, TAIL = 192, 64
"""Characters that a deep network reads of a longer text, from its beginning and its end."""
ALL_FOLDS = -1
"""Fold of a text that was not trained on."""


@dataclass(frozen=True)
class Review:
    """One text: an example for training, evaluation or prediction."""

    codes: Codes
    """[N] code points of the normalised text."""
    label: int = UNLABELLED
    """Class of the model, or UNLABELLED."""
    weight: float = 1.0
    fold: int = ALL_FOLDS
    language: int = 0
    """Index of `models.reviews.text.LANGUAGES`."""
    category: str = ""
    pretrain: bool = False
    """Whether a network learns which characters were replaced, and not the class."""
    explain: bool = False
    """Whether the n-grams that speak for the answer are wanted."""
    text: str = ""
    """The text as it was sent, where its aspect terms are wanted."""
    stored: Mapping[str, Any] | None = None
    """What the feature store has of a product, for an answer that only passes it on."""


@dataclass(frozen=True)
class Reviews:
    """A batch of B texts."""

    grams: Tensor
    """[M] hashes of the distinct n-grams, text by text."""
    owners: Tensor
    """[M] the text of each n-gram."""
    characters: Tensor
    """[B, L] code points, 0 as padding."""
    labels: Tensor
    weights: Tensor
    folds: Tensor
    languages: Tensor
    lengths: Tensor
    """[B] characters of each whole text."""
    categories: tuple[str, ...]
    codes: tuple[Codes | None, ...]
    """[B] the texts whose answer is to be explained."""
    stored: tuple[Mapping[str, Any] | None, ...] = ()
    """[B]"""
    texts: tuple[str, ...] = ()
    """[B] the texts whose aspect terms are wanted, empty for the others."""
    pretrain: bool = False
    """Whether the batch is for pretraining; it then has no n-grams."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in self._tensors().items()})

    def pin_memory(self) -> Self:
        """The same batch in memory from which a GPU copies while it computes."""
        return replace(self, **{name: value.pin_memory() for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        return {each.name: value for each in fields(self) if isinstance(value := getattr(self, each.name), Tensor)}


class Texts:
    """The texts of some shards of one split or of several."""

    def __init__(
        self,
        data: Prepared,
        splits: Collection[str],
        shards: Sequence[int],
        *,
        classes: npt.NDArray[np.int64],
        pretrain: bool = False,
    ) -> None:
        self._pretrain, self._classes = pretrain, classes
        self._shards: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]] = []
        columns: list[tuple[npt.NDArray[np.int64], ...]] = []
        self._categories: list[str] = []
        for number, shard in enumerate(shards):
            directory = data.shard(shard)
            names = ("codes", "offsets", "labels", "weights", "languages", "folds")
            codes, offsets, labels, weights, languages, folds = (
                np.asarray(load_array(directory / f"{name}.npy", mmap=True)) for name in names
            )
            self._shards.append((codes, offsets))
            table = pq.read_table(directory / "reviews.parquet", columns=["category", "split"])
            rows = np.flatnonzero(np.isin(np.array(table["split"].to_pylist(), np.str_), list(splits)))
            category = table["category"].to_pylist()
            self._categories += [category[row] or "" for row in rows]
            parts = (np.full(len(rows), number), rows, labels[rows], weights[rows], languages[rows], folds[rows])
            columns.append(parts)
        joined = [np.concatenate([part[column] for part in columns]) for column in range(6)]
        self._shard, self._row, self._label, self._weight, self._language, self._fold = joined

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, index: int) -> Review:
        codes, offsets = self._shards[self._shard[index]]
        row = self._row[index]
        return Review(
            codes=codes[offsets[row] : offsets[row + 1]],
            label=int(self._classes[self._label[index]]),
            weight=float(self._weight[index]),
            fold=int(self._fold[index]),
            language=int(self._language[index]),
            category=self._categories[index],
            pretrain=self._pretrain,
        )

    def labels(self) -> npt.NDArray[np.int64]:
        """The class of each example, UNLABELLED for one that the model lacks."""
        found: npt.NDArray[np.int64] = self._classes[self._label]
        return found

    def place(self, index: int) -> tuple[int, int]:
        """The shard, counted among those that were opened, and the row of an example."""
        return int(self._shard[index]), int(self._row[index])

    def sizes(self) -> list[int]:
        """Characters of each example."""
        bounds = [self._shards[shard][1] for shard in range(len(self._shards))]
        return [
            int(bounds[shard][row + 1] - bounds[shard][row]) for shard, row in zip(self._shard, self._row, strict=True)
        ]


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Review]:
    """The labelled texts of some shards of one split; a class that the model lacks is UNLABELLED.

    In the epochs that pretrain also the texts without a class; data of older versions have none.
    """
    own = data.schema(Schema)
    known = [schema.classes.index(name) if name in schema.classes else UNLABELLED for name in own.classes]
    pretrain = split == "train" and 0 < epoch <= pretraining_epochs(config)
    splits = (split, WITHOUT_CLASS) if pretrain else (split,)
    return Texts(data, splits, shards, classes=np.array([*known, UNLABELLED], np.int64), pretrain=pretrain)


def lengths(examples: Dataset[Review]) -> Sequence[int]:
    """Characters of each training text."""
    if isinstance(examples, Texts):
        return examples.sizes()
    return [len(examples[row].codes) for row in range(len(examples))]


def collate(examples: Sequence[Review]) -> Reviews:
    """Turn texts into tensors; see Reviews for the shapes."""
    texts = [each.codes for each in examples]
    grams, starts = present([codes[:0] for codes in texts] if examples[0].pretrain else texts)
    read = [_cut(codes) for codes in texts]
    width = max(1, *(len(codes) for codes in read))
    characters = np.zeros((len(read), width), np.int64)
    for row, codes in enumerate(read):
        characters[row, : len(codes)] = codes
    return Reviews(
        grams=torch.from_numpy(grams),
        owners=torch.from_numpy(np.repeat(np.arange(len(texts)), np.diff(starts))),
        characters=torch.from_numpy(characters),
        labels=torch.tensor([each.label for each in examples]),
        weights=torch.tensor([each.weight for each in examples], dtype=torch.float32),
        folds=torch.tensor([each.fold for each in examples]),
        languages=torch.tensor([each.language for each in examples]),
        lengths=torch.tensor([len(codes) for codes in texts]),
        categories=tuple(each.category for each in examples),
        codes=tuple(each.codes if each.explain else None for each in examples),
        stored=tuple(each.stored for each in examples),
        texts=tuple(each.text for each in examples),
        pretrain=examples[0].pretrain,
    )


def _cut(codes: Codes) -> Codes:
    return codes if len(codes) <= HEAD + TAIL else np.concatenate([codes[:HEAD], codes[-TAIL:]])
