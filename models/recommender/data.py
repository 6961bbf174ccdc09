"""Prepared behaviour logs as examples and batches: packed rows for training, one history per user for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.family import Dataset
from models.prepared import Prepared
from models.recommender.auto_settings import resolve
from models.recommender.config import Config
from models.recommender.schema import PADDING, Schema

Ints = NDArray[np.int32]

NO_TARGET = -1
"""Padding of Histories.target_sets."""
NUM_CUTS = 3
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


@dataclass(frozen=True)
class Example:
    """A history to recommend for: an evaluation example or a request."""

    history: Sequence[int]
    """Item indices, oldest first."""
    count: int = 10
    excluded: Sequence[int] = ()
    """Distinct items that must not be recommended."""
    allowed: Sequence[int] | None = None
    """If given, the only items that may be recommended."""
    target: int = -1
    """The item that followed; PADDING if the model does not know it; -1 in a request."""
    target_seen: bool = False
    """Whether the target is in the history."""
    targets: Sequence[int] = ()
    """Held-out users only: the distinct items that followed, of which `target` is the first."""
    targets_seen: Sequence[bool] = ()
    """For each of them, whether it is in the history."""


@dataclass(frozen=True)
class Rows:
    """A batch of training rows, all [B, L] int64."""

    items: Tensor
    targets: Tensor
    segments: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


@dataclass(frozen=True)
class Histories:
    """A batch of B histories of up to L events; the model truncates them to its own length.

    items [B, L] right-padded, lengths [B], targets [B], target_seen [B], excluded [B, S] padded item indices.
    With several targets per example: target_sets [B, K], padded with NO_TARGET, and target_sets_seen [B, K].
    """

    items: Tensor
    lengths: Tensor
    targets: Tensor
    target_seen: Tensor
    excluded: Tensor
    examples: Sequence[Example] = field(default_factory=tuple)
    target_sets: Tensor | None = None
    target_sets_seen: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def first(self, count: int) -> Self:
        """The first examples of the batch."""
        return self._part(0, count)

    def parts(self, size: int) -> list[Self]:
        """The batch split into batches of up to `size` examples, in order."""
        return [self._part(start, start + size) for start in range(0, len(self.lengths), size)]

    def _part(self, begin: int, end: int) -> Self:
        tensors = {name: tensor[begin:end] for name, tensor in self._tensors().items()}
        return replace(self, examples=self.examples[begin:end], **tensors)

    def _tensors(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Row | Example]:
    """Examples of some shards of one split, with items indexed as in `schema`."""
    logs = [ShardLog.open(data, shard) for shard in shards]
    remap = _remap(data, schema)
    if split == "train":
        return TrainingRows(
            logs, remap=remap, length=resolve(config, schema).max_length, seed=config.seed * 1000 + epoch
        )
    if split not in ("val", "test"):
        raise ValueError(f"unknown split {split!r}; use train, val or test")
    own = data.schema(Schema)
    num_scores = own.num_examples["val"] * own.num_items
    user_stride = max(1, -(-num_scores // MAX_VALIDATION_SCORES)) if split == "val" else 1
    has_target_sets = own.split == "held-out-users"
    return HeldOutExamples(logs, remap=remap, split=split, has_target_sets=has_target_sets, user_stride=user_stride)


@dataclass(frozen=True)
class ShardLog:
    """The memory-mapped events of one shard, by user and time."""

    items: Ints
    offsets: NDArray[np.int64]
    splits: NDArray[np.int64]
    """(train_end, val_start, test_start) of each user, from their first event; see partitions.split_users."""

    @classmethod
    def open(cls, data: Prepared, shard: int) -> Self:
        """Map one shard of a prepared data directory."""
        directory = data.shard(shard)
        # Plain array views: slicing a memmap costs microseconds.
        parts = (np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("items", "offsets", "splits"))
        log = cls(*map(np.asarray, parts))
        if log.splits.shape[1] != NUM_CUTS:
            raise ValueError(f"{data.path} was prepared by an older version; prepare it again")
        return log

    @property
    def num_users(self) -> int:
        """Users of the shard."""
        return len(self.offsets) - 1


class TrainingRows:
    """All (event, next event) pairs of the training split as one stream of users in random order, packed into rows.

    Every pair is in exactly one row, so an epoch trains on each once, and only the last row is padded.
    """

    def __init__(self, logs: Sequence[ShardLog], *, remap: Ints | None, length: int, seed: int) -> None:
        self._logs = logs
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
        user = int(np.searchsorted(self._ends, begin, side="right"))
        segment = 0
        while user < len(self._ends) and self._begins[user] < end:
            start, stop = max(begin, int(self._begins[user])), min(end, int(self._ends[user]))
            source = int(self._first_event[user]) + start - int(self._begins[user])
            events = self._logs[self._log_of_user[user]].items[source : source + stop - start + 1]
            segment += 1
            items[start - begin : stop - begin] = events[:-1]
            targets[start - begin : stop - begin] = events[1:]
            segments[start - begin : stop - begin] = segment
            user += 1
        if self._remap is not None:
            items, targets = self._remap[items], self._remap[targets]
        return Row(items, targets, segments)


class HeldOutExamples:
    """One example for every `user_stride`-th user with events in the split.

    The target is one of those events, drawn pseudo-randomly but always the same, and the history is all events before
    it: if it were always the first, a log of baskets would hardly ever show other items of the target's basket, which a
    shop knows when it recommends. With `has_target_sets` all events of the split are targets.
    """

    def __init__(
        self,
        logs: Sequence[ShardLog],
        *,
        remap: Ints | None,
        split: str,
        has_target_sets: bool,
        user_stride: int = 1,
    ) -> None:
        self._remap = remap
        self._has_target_sets = has_target_sets
        self._places: list[tuple[ShardLog, int, int, int]] = []
        for log in logs:
            val_start, test_start = log.splits[:, 1], log.splits[:, 2]
            starts, ends = (val_start, test_start) if split == "val" else (test_start, np.diff(log.offsets))
            for user in np.flatnonzero(starts < ends)[::user_stride]:
                first, start, end = (int(value) for value in (log.offsets[user], starts[user], ends[user]))
                target = start if has_target_sets else start + _pseudo_random(first + start, end - start)
                self._places.append((log, first, first + target, first + end))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        log, first, place, end = self._places[index]
        seen, target = log.items[first:place], int(log.items[place])
        targets, targets_seen = self._targets(seen, log.items[place:end]) if self._has_target_sets else ((), ())
        target_seen = bool((seen == target).any())
        if self._remap is not None:
            seen = self._remap[seen]
            seen, target = seen[seen != PADDING], int(self._remap[target])
        return Example(
            history=seen,  # type: ignore[arg-type]
            excluded=np.unique(seen),  # type: ignore[arg-type]
            target=target,
            target_seen=target_seen,
            targets=targets,
            targets_seen=targets_seen,
        )

    def _targets(self, seen: Ints, followed: Ints) -> tuple[Sequence[int], Sequence[bool]]:
        _, first = np.unique(followed, return_index=True)
        distinct = followed[np.sort(first)]
        before = np.isin(distinct, seen)
        return (distinct if self._remap is None else self._remap[distinct]).tolist(), before.tolist()


def collate(examples: Sequence[Row | Example]) -> Rows | Histories:
    """Turn examples into tensors; see Rows and Histories for the shapes."""
    if isinstance(examples[0], Row):
        return Rows(
            **{
                name: torch.from_numpy(np.stack([getattr(row, name) for row in examples])).long()
                for name in ("items", "targets", "segments")
            }
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
    )


def history_rows(data: Prepared) -> Iterator[tuple[str, list[str]]]:
    """Every user's most recent item ids, oldest first, for the feature store."""
    items = pq.read_table(data.path / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    for directory in data.shards():
        log = ShardLog.open(data, int(directory.name))
        users = pq.read_table(directory / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
        for user_id, begin, end in zip(users, log.offsets[:-1].tolist(), log.offsets[1:].tolist(), strict=True):
            recent = log.items[max(begin, end - MAX_SERVED_HISTORY) : end].tolist()
            yield user_id, [items[item - 1] for item in recent]


def items_with_rows(data: Prepared) -> Iterator[tuple[str, str, list[str]]]:
    """(attribute, value, item ids) for every attribute of the item table and every value it takes."""
    table = pq.read_table(data.path / "items.parquet")
    item_ids = table.column("item_id").to_pylist()
    for name in table.column_names:
        if name == "item_id" or pa.types.is_list(table.schema.field(name).type):
            continue
        having: dict[str, list[str]] = {}
        for item_id, value in zip(item_ids, table.column(name).to_pylist(), strict=True):
            if value is not None:
                having.setdefault(str(value), []).append(item_id)
        for value, ids in having.items():
            yield name, value, ids


def _target_sets(examples: Sequence[Example]) -> dict[str, Tensor]:
    if not any(example.targets for example in examples):
        return {}
    seen = _padded([example.targets_seen for example in examples])
    return {
        "target_sets": _padded([example.targets for example in examples], fill=NO_TARGET),
        "target_sets_seen": seen.bool(),
    }


def _pseudo_random(seed: int, below: int) -> int:
    """A number in 0 .. below - 1, always the same for a seed."""
    return (seed * 0x9E3779B97F4A7C15 % 2**64 >> 32) * below >> 32


def _padded(sequences: Sequence[Sequence[int]], *, fill: int = PADDING) -> Tensor:
    width = max(1, max(len(sequence) for sequence in sequences))
    padded = np.full((len(sequences), width), fill, np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return torch.from_numpy(padded)


def _remap(data: Prepared, schema: Schema) -> Ints | None:
    """Item index of the data -> of the model (PADDING if unknown to the model); None where they are the same."""
    own = data.schema(Schema)
    if own.fingerprint == schema.fingerprint or own.items == schema.items:
        return None
    return np.array([PADDING] + [schema.index.get(item, PADDING) for item in own.items], dtype=np.int32)
