"""The events of a shard, and the held-out examples that are drawn from them: a history and the target that followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.arrays import load_array
from models.prepared import Prepared
from models.recommender.live.new_items import NewItems
from models.recommender.schema import PADDING, Schema

Ints = NDArray[np.int32]
Codes = NDArray[np.uint8]

NUM_CUTS = 3


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
    types: Sequence[int] | None = None
    """Type of each event of the history, by its code in the schema; None if the model knows no types."""
    target_type: str = ""
    """Name of the target's type, where targets have several."""
    amount: float | None = None
    """Price times quantity of the target, NaN if it has no price; None if the log has no prices."""
    new: NewItems | None = None
    """Items beyond the model and withdrawn ones; indices of `excluded` and `allowed` may be of these."""
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Item of the history that stands for a new one -> the new one."""
    subject: int | None = None
    """The item that others are to be similar to, where the history has its nearest neighbour instead."""


@dataclass(frozen=True)
class ShardLog:
    """The memory-mapped events of one shard, by user and time."""

    items: Ints
    offsets: NDArray[np.int64]
    splits: NDArray[np.int64]
    """(train_end, val_start, test_start) of each user, from their first event; see splits.split_users."""
    types: Codes | None = None
    """Type of each event, by its code in the data's schema; None if the log has no types."""
    amounts: NDArray[np.float32] | None = None
    """Price times quantity of each event; None if the log has no prices."""

    @classmethod
    def open(cls, data: Prepared, shard: int) -> Self:
        """Map one shard of a prepared data directory."""
        directory = data.shard(shard)
        # Plain array views: slicing a memmap costs microseconds.
        names = ("items", "offsets", "splits", "types", "amounts")
        paths = {name: directory / f"{name}.npy" for name in names}
        there = {name: path for name, path in paths.items() if name in names[:3] or path.exists()}
        log = cls(**{name: np.asarray(load_array(path, mmap=True)) for name, path in there.items()})
        if log.splits.shape[1] != NUM_CUTS:
            raise ValueError(f"{data.path} was prepared by an older version; prepare it again")
        return log

    @property
    def num_users(self) -> int:
        """Users of the shard."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class TypeRule:
    """What the types of events mean for held-out examples: targets, seen items, and the input of the model."""

    own: Schema
    """Of the data, which says what is evaluated."""
    type_codes: Codes | None
    """Code of each type in the model's schema, by its code in the data's; None if the model knows no types."""

    @property
    def names_targets(self) -> bool:
        """Whether targets have several types, to be reported apart."""
        num_types = len(self.own.target_types) or len(self.own.event_types)
        return self.own.split != "held-out-users" and num_types > 1

    def target_places(self, log: ShardLog) -> NDArray[np.int64] | None:
        """Where the events are that may be a target, ascending; None if all may."""
        is_target = self.own.is_target
        return None if is_target is None or log.types is None else np.flatnonzero(is_target[log.types])

    def seen(self, items: Ints, types: Codes | None) -> Ints:
        """The items that some events make seen."""
        is_seen = self.own.is_seen
        return items if is_seen is None or types is None else items[is_seen[types]]


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
        rule: TypeRule | None = None,
    ) -> None:
        self._remap = remap
        self._rule = rule
        self._has_target_sets = has_target_sets
        self._places: list[tuple[ShardLog, int, int, int]] = []
        for log in logs:
            self._places += _held_out_places(log, split, rule, is_drawn=not has_target_sets)[::user_stride]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        log, first, place, end = self._places[index]
        history, types = log.items[first:place], None if log.types is None else log.types[first:place]
        seen = history if self._rule is None else self._rule.seen(history, types)
        target = place
        targets: Sequence[int] = ()
        targets_seen: Sequence[bool] = ()
        if self._has_target_sets:
            followed = self._followed(log, place, end)
            target, (targets, targets_seen) = int(followed[0]), self._targets(seen, log.items[followed])
        target_seen = bool((seen == log.items[target]).any())
        item = int(log.items[target])
        if self._remap is not None:
            history, seen, item = self._remap[history], self._remap[seen], int(self._remap[item])
            types = None if types is None else types[history != PADDING]
            history, seen = history[history != PADDING], seen[seen != PADDING]
        return Example(
            history=history,  # type: ignore[arg-type]
            excluded=np.unique(seen),  # type: ignore[arg-type]
            target=item,
            target_seen=target_seen,
            targets=targets,
            targets_seen=targets_seen,
            **self._details(log, target, types),
        )

    def _followed(self, log: ShardLog, place: int, end: int) -> NDArray[np.int64]:
        """Where the targets of a held-out user are."""
        followed = np.arange(place, end)
        is_target = None if self._rule is None else self._rule.own.is_target
        return followed if is_target is None or log.types is None else followed[is_target[log.types[place:end]]]

    def _targets(self, seen: Ints, followed: Ints) -> tuple[Sequence[int], Sequence[bool]]:
        _, first = np.unique(followed, return_index=True)
        distinct = followed[np.sort(first)]
        before = np.isin(distinct, seen)
        return (distinct if self._remap is None else self._remap[distinct]).tolist(), before.tolist()

    def _details(self, log: ShardLog, target: int, types: Codes | None) -> dict[str, Any]:
        """Types and amount of an example, where the log has them."""
        found: dict[str, Any] = {}
        if self._rule is not None and types is not None:
            if self._rule.type_codes is not None:
                found["types"] = self._rule.type_codes[types]
            if self._rule.names_targets:
                assert log.types is not None
                found["target_type"] = ("none", *self._rule.own.event_types)[log.types[target]]
        if log.amounts is not None and not self._has_target_sets:
            found["amount"] = float(log.amounts[target])
        return found


def _held_out_places(
    log: ShardLog, split: str, rule: TypeRule | None, *, is_drawn: bool
) -> list[tuple[ShardLog, int, int, int]]:
    """(log, first event, target, end of the split) of each user with a target; the start of the split if not drawn."""
    val_start, test_start = log.splits[:, 1], log.splits[:, 2]
    starts, ends = (val_start, test_start) if split == "val" else (test_start, np.diff(log.offsets))
    targets = None if rule is None else rule.target_places(log)
    places = []
    for user in np.flatnonzero(starts < ends):
        first, start, end = (int(value) for value in (log.offsets[user], starts[user], ends[user]))
        if targets is None:
            target = first + start + (_pseudo_random(first + start, end - start) if is_drawn else 0)
        else:
            begin, stop = np.searchsorted(targets, (first + start, first + end)).tolist()
            if begin == stop:
                continue
            drawn = begin + _pseudo_random(first + start, stop - begin)
            target = int(targets[drawn]) if is_drawn else first + start
        places.append((log, first, target, first + end))
    return places


def _pseudo_random(seed: int, below: int) -> int:
    """A number in 0 .. below - 1, always the same for a seed."""
    return (seed * 0x9E3779B97F4A7C15 % 2**64 >> 32) * below >> 32
