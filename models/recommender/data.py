"""Prepared behaviour logs as examples and batches: packed rows for training, one history per user for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.family import Dataset
from models.prepared import Prepared
from models.recommender.auto_settings import resolve
from models.recommender.config import Config
from models.recommender.held_out import Codes, Example, HeldOutExamples, Ints, ShardLog, TypeRule
from models.recommender.live.new_items import NewItems
from models.recommender.schema import PADDING, Schema

NO_TARGET = -1
"""Padding of Histories.target_sets."""
MAX_VALIDATION_SCORES = 5_000_000_000
"""A large log is validated on every n-th user of a shard, which limits the scores of an epoch to about this many: 5,000
users with a million items. The test split is always used in full."""
MAX_SERVED_HISTORY = 2000
"""Events of a user's history that the feature store keeps."""


@dataclass(frozen=True)
class Row:
    """A training example: max_length events of one or more users, packed, each with the event that followed."""

    items: Ints
    targets: Ints
    """The next item at each position; PADDING where there is none."""
    segments: Ints
    """Number of the user within the row at each position, from 1; 0 is padding."""
    types: Codes | None = None
    """Type of the event at each position, by its code in the schema; None if the model knows no types."""
    target_types: Codes | None = None
    """Type of the next event at each position."""


@dataclass(frozen=True)
class Rows:
    """A batch of training rows, all [B, L] int64."""

    items: Tensor
    targets: Tensor
    segments: Tensor
    types: Tensor | None = None
    target_types: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in _tensors(self).items()})

    def pin_memory(self) -> Self:
        """The same batch in memory from which a GPU copies while it computes."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in _tensors(self).items()})


@dataclass(frozen=True)
class Histories:
    """A batch of B histories of up to L events; the model truncates them to its own length.

    items [B, L] right-padded, lengths [B], targets [B], target_seen [B], excluded [B, S] padded item indices.
    With several targets per example: target_sets [B, K], padded with NO_TARGET, and target_sets_seen [B, K].
    Where the model knows event types: types [B, L], padded with 0. Where the log has prices: amounts [B], see Example.
    """

    items: Tensor
    lengths: Tensor
    targets: Tensor
    target_seen: Tensor
    excluded: Tensor
    examples: Sequence[Example] = field(default_factory=tuple)
    target_sets: Tensor | None = None
    target_sets_seen: Tensor | None = None
    types: Tensor | None = None
    amounts: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in _tensors(self).items()})

    @property
    def new(self) -> NewItems | None:
        """The new items of the examples, which all have the same, see `parts`."""
        return self.examples[0].new if self.examples else None

    def first(self, count: int) -> Self:
        """The first examples of the batch."""
        return self._part(0, count)

    def parts(self, size: int) -> list[Self]:
        """The batch split into batches of up to `size` examples with the same new items, in order."""
        starts = [0]
        for place in range(1, len(self.lengths)):
            if place - starts[-1] == size or (
                self.examples and self.examples[place].new is not self.examples[place - 1].new
            ):
                starts.append(place)
        return [self._part(start, end) for start, end in zip(starts, [*starts[1:], len(self.lengths)], strict=True)]

    def _part(self, begin: int, end: int) -> Self:
        tensors = {name: tensor[begin:end] for name, tensor in _tensors(self).items()}
        return replace(self, examples=self.examples[begin:end], **tensors)


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Row | Example]:
    """Examples of some shards of one split, with items indexed as in `schema`."""
    logs = [ShardLog.open(data, shard) for shard in shards]
    own = data.schema(Schema)
    remap, type_codes = _remap(own, schema), _type_codes(own, schema)
    if split == "train":
        seed = config.seed * 1000 + epoch
        length = resolve(config, schema).max_length
        return TrainingRows(logs, remap=remap, length=length, seed=seed, type_codes=type_codes)
    if split not in ("val", "test"):
        raise ValueError(f"unknown split {split!r}; use train, val or test")
    num_scores = own.num_examples["val"] * own.num_items
    user_stride = max(1, -(-num_scores // MAX_VALIDATION_SCORES)) if split == "val" else 1
    return HeldOutExamples(
        logs,
        remap=remap,
        split=split,
        has_target_sets=own.split == "held-out-users",
        user_stride=user_stride,
        rule=TypeRule(own, type_codes),
    )


class TrainingRows:
    """All (event, next event) pairs of the training split as one stream of users in random order, packed into rows.

    Every pair is in exactly one row, so an epoch trains on each once, and only the last row is padded.
    """

    def __init__(
        self,
        logs: Sequence[ShardLog],
        *,
        remap: Ints | None,
        length: int,
        seed: int,
        type_codes: Codes | None = None,
    ) -> None:
        self._logs = logs
        self._type_codes = type_codes
        self._remap = remap
        self._length = length
        pairs = np.concatenate([np.maximum(log.splits[:, 0] - 1, 0) for log in logs] or [np.zeros(0, np.int64)])
        log_of_user = np.repeat(np.arange(len(logs)), [log.num_users for log in logs])
        first_event = np.concatenate([log.offsets[:-1] for log in logs] or [np.zeros(0, np.int64)])
        order = np.random.default_rng(seed).permutation(np.flatnonzero(pairs))
        self._log_of_user, self._first_event = log_of_user[order], first_event[order]
        self._ends = np.cumsum(pairs[order])
        self._begins = self._ends - pairs[order]

    def __len__(self) -> int:
        return -(-int(self._ends[-1]) // self._length) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:
        begin, end = index * self._length, (index + 1) * self._length
        items, targets, segments = (np.zeros(self._length, np.int32) for _ in range(3))
        types, target_types = (np.zeros(self._length, np.uint8) for _ in range(2))
        user = int(np.searchsorted(self._ends, begin, side="right"))
        segment = 0
        while user < len(self._ends) and self._begins[user] < end:
            start, stop = max(begin, int(self._begins[user])), min(end, int(self._ends[user]))
            source = int(self._first_event[user]) + start - int(self._begins[user])
            log = self._logs[self._log_of_user[user]]
            events = log.items[source : source + stop - start + 1]
            segment += 1
            items[start - begin : stop - begin] = events[:-1]
            targets[start - begin : stop - begin] = events[1:]
            segments[start - begin : stop - begin] = segment
            if self._type_codes is not None and log.types is not None:
                of_events = self._type_codes[log.types[source : source + stop - start + 1]]
                types[start - begin : stop - begin] = of_events[:-1]
                target_types[start - begin : stop - begin] = of_events[1:]
            user += 1
        if self._remap is not None:
            items, targets = self._remap[items], self._remap[targets]
        return Row(items, targets, segments, *((types, target_types) if self._type_codes is not None else ()))


def collate(examples: Sequence[Row | Example]) -> Rows | Histories:
    """Turn examples into tensors; see Rows and Histories for the shapes."""
    if isinstance(examples[0], Row):
        names = [f.name for f in fields(Rows) if getattr(examples[0], f.name) is not None]
        return Rows(
            **{name: torch.from_numpy(np.stack([getattr(row, name) for row in examples])).long() for name in names}
        )
    histories: Sequence[Any] = examples
    return Histories(
        items=_padded([example.history for example in histories]),
        lengths=torch.tensor([len(example.history) for example in histories]),
        targets=torch.tensor([example.target for example in histories]),
        target_seen=torch.tensor([example.target_seen for example in histories]),
        excluded=_padded([example.excluded for example in histories]),
        examples=histories,
        **_target_sets(histories),
        **_details(histories),
    )


def history_rows(data: Prepared) -> Iterator[tuple[str, list[Any]]]:
    """Every user's most recent item ids, oldest first, for the feature store; of a log with types [item id, type]."""
    types = [None, *data.schema(Schema).event_types]
    items = pq.read_table(data.path / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    for directory in data.shards():
        log = ShardLog.open(data, int(directory.name))
        users = pq.read_table(directory / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
        for user_id, begin, end in zip(users, log.offsets[:-1].tolist(), log.offsets[1:].tolist(), strict=True):
            recent = log.items[max(begin, end - MAX_SERVED_HISTORY) : end].tolist()
            history: list[Any] = [items[item - 1] for item in recent]
            if log.types is not None:
                of_recent = log.types[end - len(recent) : end].tolist()
                history = [[item, types[code]] for item, code in zip(history, of_recent, strict=True)]
            yield user_id, history


def attribute_columns(data: Prepared) -> Iterator[tuple[str, list[str], list[Any]]]:
    """(attribute, item ids, the value of each or None) for every attribute of the item table but vectors."""
    table = pq.read_table(data.path / "items.parquet")
    item_ids = table.column("item_id").to_pylist()
    for name in table.column_names:
        if name != "item_id" and not pa.types.is_list(table.schema.field(name).type):
            yield name, item_ids, table.column(name).to_pylist()


def _target_sets(examples: Sequence[Example]) -> dict[str, Tensor]:
    if not any(example.targets for example in examples):
        return {}
    seen = _padded([example.targets_seen for example in examples])
    return {
        "target_sets": _padded([example.targets for example in examples], fill=NO_TARGET),
        "target_sets_seen": seen.bool(),
    }


def _details(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Types and amounts, where the examples have them."""
    found = {}
    if any(example.types is not None for example in examples):
        found["types"] = _padded([example.types if example.types is not None else () for example in examples], fill=0)
    if all(example.amount is not None for example in examples):
        found["amounts"] = torch.tensor([example.amount for example in examples], dtype=torch.float64)
    return found


def _tensors(batch: Rows | Histories) -> dict[str, Any]:
    return {f.name: value for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor)}


def _padded(sequences: Sequence[Sequence[int]], *, fill: int = PADDING) -> Tensor:
    width = max(1, max(len(sequence) for sequence in sequences))
    padded = np.full((len(sequences), width), fill, np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return torch.from_numpy(padded)


def _remap(own: Schema, schema: Schema) -> Ints | None:
    """Item index of the data -> of the model (PADDING if unknown to the model); None where they are the same."""
    if own.fingerprint == schema.fingerprint or own.items == schema.items:
        return None
    return np.array([PADDING] + [schema.index.get(item, PADDING) for item in own.items], dtype=np.int32)


def _type_codes(own: Schema, schema: Schema) -> Codes | None:
    """Type of the data -> of the model, by code (0 if unknown to the model); None if the model knows no types."""
    if not schema.has_types:
        return None
    return np.array([0, *(schema.type_codes.get(name, 0) for name in own.event_types)], np.uint8)
