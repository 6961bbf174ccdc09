"""Prepared sales as examples and batches: rows of what demand models read, weighted for each member of an ensemble."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.family import Dataset
from models.prepared import Prepared
from models.pricing.config import Config
from models.pricing.design import Design
from models.pricing.networks.monotone import DemandBatch
from models.pricing.panel import Floats
from models.pricing.schema import Schema
from models.pricing.states import OfferState
from models.pricing.tables import Rows, recoded
from models.pricing.training import batch_of

NO_WEIGHTS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Example:
    """One row of a table of sales, or one offer to predict."""

    table: Rows
    index: int
    weights: npt.NDArray[np.float32] = field(default_factory=lambda: NO_WEIGHTS)
    """How often each member of an ensemble counts the row [M], twice over: members see half of the rows."""
    offer: OfferState | None = None


@dataclass(frozen=True)
class SalesBatch:
    """A batch of B rows: what demand models read, and the weights of members [B, M]."""

    demand: DemandBatch
    weights: Tensor
    rows: Rows
    """The same rows as arrays, for models that are no networks."""
    offers: tuple[OfferState, ...] = ()
    """The offers of a prediction, in order."""

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on a device."""
        moved = {each.name: getattr(self.demand, each.name).to(device) for each in fields(self.demand)}
        return replace(self, demand=DemandBatch(**moved), weights=self.weights.to(device))

    def design(self, schema: Schema) -> Design:
        """The rows for demand models."""
        return self.rows.design(schema)


class Sales:
    """The rows of some tables at given places (table, row), with the weights of each member by period."""

    def __init__(self, tables: Sequence[Rows], places: Sequence[npt.NDArray[np.int64]], weights: Floats) -> None:
        self._tables, self._weights = tables, weights.astype(np.float32)
        self._places = np.concatenate([*places, np.zeros(0, np.int64)]).astype(np.int64)
        self._table = np.repeat(np.arange(len(places)), [len(each) for each in places])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        table, row = self._tables[self._table[index]], int(self._places[index])
        if not len(self._weights):
            return Example(table, row)
        return Example(table, row, self._weights[:, int(table.period[row])])


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Example]:
    """The rows of some shards of one split. Periods in which all stock was sold are trained on as lower bounds of
    demand, and not evaluated on."""
    own = data.schema(Schema)
    check_data(schema, own)
    if split not in ("train", "val", "test"):
        raise ValueError(f"unknown split {split!r}; use train, val or test")
    tables = [recoded(Rows.open(data.shard(shard)), own, schema) for shard in shards]
    places = [np.flatnonzero(in_split(table, split, own)) for table in tables]
    weights = member_weights(config, own) if split == "train" else np.zeros((0, 0))
    return Sales(tables, places, weights)


def check_data(schema: Schema, own: Schema) -> None:
    """Raise ValueError for a model of other periods than those of prepared data."""
    if own.period != schema.period:
        raise ValueError(
            f"the model is of {schema.period}s and the prepared data have {own.period}s; use a model that was trained "
            f"on them, or prepare with --period {schema.period}"
        )
    if own.time_zone != schema.time_zone:
        raise ValueError(
            f"the model's days begin in {schema.time_zone} and those of the prepared data in {own.time_zone}; prepare "
            f"with --time-zone {schema.time_zone}, or train on these data"
        )


def in_split(table: Rows, split: str, schema: Schema) -> npt.NDArray[np.bool_]:
    """Which rows [N] are of a split of data with this schema."""
    period = np.asarray(table.period)
    if split == "train":
        return np.asarray(period < schema.train_end)
    is_val = (period >= schema.train_end) & (period < schema.test_from)
    chosen = is_val if split == "val" else (period >= schema.test_from) & (period < schema.num_periods)
    return np.asarray(chosen & ~np.asarray(table.censored))


def half_of(periods: npt.NDArray[Any], schema: Schema) -> npt.NDArray[np.int64]:
    """0 for periods in even blocks, 1 for those in odd ones; the same as `weeks.alternating_halves` of training."""
    found: npt.NDArray[np.int64] = (np.asarray(periods, np.int64) // schema.block) % 2
    return found


def member_weights(config: Config, schema: Schema) -> Floats:
    """How often each member counts the rows of a period [M, train_end]: bootstrap samples of the blocks of one half.

    Weights are doubled, since a member's half of the rows is half of a batch.
    """
    periods = np.arange(schema.train_end)
    block, half = periods // schema.block, half_of(periods, schema)
    found = np.zeros((config.members, len(periods)))
    for member in range(config.members):
        draw = np.random.default_rng([config.seed, member])
        own = np.unique(block[half == member % 2])
        counts = np.zeros(int(block.max()) + 1)
        np.add.at(counts, draw.choice(own, len(own)), 2.0)
        found[member] = counts[block]
    return found


def collate(examples: Sequence[Example]) -> SalesBatch:
    """Turn rows into tensors, in their order."""
    tables = {id(each.table): each.table for each in examples}
    by_table: dict[int, list[int]] = {}
    for place, each in enumerate(examples):
        by_table.setdefault(id(each.table), []).append(place)
    parts, order = [], []
    for key, places in by_table.items():
        parts.append(tables[key].rows(np.array([examples[place].index for place in places], np.int64)))
        order += places
    rows = Rows.joined(parts).rows(np.argsort(order)) if len(parts) > 1 else parts[0]
    return SalesBatch(
        demand=batch_of(rows.plain(), np.arange(len(rows))),
        weights=torch.from_numpy(np.stack([each.weights for each in examples])),
        rows=rows,
        offers=tuple(each.offer for each in examples if each.offer is not None),
    )


def training_rows(data: Prepared, schema: Schema) -> Rows:
    """All rows of the training split, in the order of shards."""
    tables = [recoded(Rows.open(data.shard(shard)), data.schema(Schema), schema) for shard in range(schema.num_shards)]
    return Rows.joined([table.rows(np.flatnonzero(in_split(table, "train", schema))) for table in tables])


def stored_offers(data: Prepared) -> Iterator[OfferState]:
    """The offers of the period after the sales, by shard, product and store."""
    for number in range(data.num_shards):
        for text in pq.read_table(data.shard(number) / "offers.parquet")["offer"].to_pylist():
            yield OfferState.read(json.loads(text))
