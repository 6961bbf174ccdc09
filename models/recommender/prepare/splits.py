"""Which events of each user are trained on, and which are held out for validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.arrays import load_array
from models.errors import DataRejected
from models.recommender.prepare.events import hash_ids
from models.recommender.schema import NUM_SHARDS, Split

HELD_OUT_TENTHS = {"val": 8, "test": 9}
"""Which tenth of the users, by a hash of their id, each held-out split has; the others are trained on."""
EVENTS_PER_TARGET = 5
"""One in this many events of a held-out user is a target; a user with fewer events is trained on."""
TRAIN_SHARE, TRAIN_AND_VAL_SHARE = 0.8, 0.9
BINS_S = (86_400, 3_600, 60, 1)
MIN_BINS = 20

Int64s = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """Parameters of the split; see `split_users`."""

    split: Split
    val_from_s: int | None = None
    test_from_s: int | None = None
    targets: tuple[int, ...] = ()
    """Codes of the event types that are targets; empty: every event."""


def choose_cut(split: Split, shards: Path, first: int, last: int) -> Cut:
    """Cut times at the starts of days (hours or less in short logs) nearest to 80 and 90 % of the events.

    `first` and `last` are the times of the first and the last event, in epoch seconds.
    """
    if split != "time":
        return Cut(split)
    bin_s = next((size for size in BINS_S if (last - first) // size >= MIN_BINS), 1)
    origin = first // bin_s
    histogram = np.zeros(last // bin_s - origin + 1, np.int64)
    for number in range(NUM_SHARDS):
        seconds = load_array(shards / f"{number:05d}" / "timestamps.npy", mmap=True)
        histogram += np.bincount(seconds // bin_s - origin, minlength=len(histogram))
    before = np.concatenate([[0], np.cumsum(histogram)])
    val, test = (int(np.abs(before - share * before[-1]).argmin()) for share in (TRAIN_SHARE, TRAIN_AND_VAL_SHARE))
    if test == val:
        test = int(np.searchsorted(before, before[val], side="right"))
    return Cut("time", (origin + val) * bin_s, (origin + test) * bin_s)


def split_users(
    users: pa.ChunkedArray,
    offsets: Int64s,
    seconds: Int64s,
    cut: Cut,
    *,
    is_target: Booleans | None = None,
) -> Int64s:
    """(train_end, val_start, test_start) of each user, counted from their first event: [U, 3].

    Training has the events before train_end, validation those from val_start to test_start, test those from test_start.
    A split by time cuts at two global times. Leave-one-out holds out the last two events of each user with at least
    three. Held-out users follow Liang et al. ("Variational autoencoders for collaborative filtering", WWW 2018): a
    tenth of the users is for validation only, another for test only; the first 80 % of their events are the history
    (fold-in) and not trained on, the rest are the targets. The paper draws these 20 % at random; here they are the
    last ones, as in production.

    Where only some events are targets (`is_target` [events]), leave-one-out holds out the last two of them of each user
    who has two, the first with an event before it; a user is only held out if a target is among the last fifth.
    """
    lengths = np.diff(offsets)
    if cut.split == "held-out-users":
        return _held_out(users, offsets, is_target)
    if cut.split == "leave-one-out" and is_target is not None:
        return _leave_two_out(offsets, is_target)
    if cut.split == "leave-one-out":
        last = np.where(lengths >= 3, 1, 0)
        return np.stack([lengths - 2 * last, lengths - 2 * last, lengths - last], axis=1)
    starts = []
    for from_s in (cut.val_from_s, cut.test_from_s):
        assert from_s is not None
        before = np.concatenate([[0], np.cumsum(seconds < from_s)])
        starts.append(before[offsets[1:]] - before[offsets[:-1]])
    return np.stack([starts[0], *starts], axis=1).astype(np.int64)


def count_users(offsets: Int64s, splits: Int64s, is_target: Booleans | None) -> dict[str, int]:
    """Users with a target in validation and in test."""
    before = np.arange(offsets[-1] + 1) if is_target is None else np.concatenate([[0], np.cumsum(is_target)])
    first = offsets[:-1]
    val, test, end = before[first + splits[:, 1]], before[first + splits[:, 2]], before[offsets[1:]]
    return {"val": int((test > val).sum()), "test": int((end > test).sum())}


def check_splits(events: Mapping[str, int], users: Mapping[str, int], cut: Cut) -> None:
    """Raise DataRejected unless each split has events, and validation and test have users with a target."""
    empty = [name for name, count in ({**events, **users} if cut.targets else events).items() if not count]
    if not empty:
        return
    if cut.targets and all(events.values()):
        raise DataRejected(
            f"the {empty[0]} split has no event of the types of --target; choose others, such as --target all, or "
            "another --split"
        )
    if cut.split == "leave-one-out":
        raise DataRejected(
            f"leave-one-out needs users with three events, {'two of them of --target, ' if cut.targets else ''}and "
            "there are none; use --split time, or a longer log"
        )
    if cut.split == "held-out-users":
        raise DataRejected(
            f"the {empty[0]} split has no users: held-out-users takes a tenth of the users for validation and a tenth "
            f"for test, with at least {EVENTS_PER_TARGET} events each; use --split time, or a longer log"
        )
    assert cut.val_from_s is not None and cut.test_from_s is not None
    raise DataRejected(
        f"with cuts at {rfc3339(cut.val_from_s)} and {rfc3339(cut.test_from_s)} the {empty[0]} split has no events "
        f"(train {events['train']:,}, val {events['val']:,}, test {events['test']:,}); "
        "choose other --val-from and --test-from, or --split leave-one-out"
    )


def rfc3339(epoch_s: int) -> str:
    """A time in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _leave_two_out(offsets: Int64s, is_target: Booleans) -> Int64s:
    """Leave-one-out where only some events are targets; see split_users."""
    lengths, first = np.diff(offsets), offsets[:-1]
    places = np.flatnonzero(is_target)
    ends = np.searchsorted(places, offsets[1:])
    has_two = ends - np.searchsorted(places, first) >= 2
    places = np.concatenate([places, [0, 0]])  # for users who have none
    second, last = places[ends - 2] - first, places[ends - 1] - first
    has_two &= second >= 1
    val_start, test_start = np.where(has_two, second, lengths), np.where(has_two, last, lengths)
    return np.stack([val_start, val_start, test_start], axis=1).astype(np.int64)


def _held_out(users: pa.ChunkedArray, offsets: Int64s, is_target: Booleans | None) -> Int64s:
    lengths = np.diff(offsets)
    # The hash modulo NUM_SHARDS is the shard, so the tenth is taken from the quotient.
    tenth = hash_ids(users.combine_chunks()) // NUM_SHARDS % 10
    num_targets = lengths // EVENTS_PER_TARGET
    if is_target is not None:
        before = np.concatenate([[0], np.cumsum(is_target)])
        num_targets = num_targets * (before[offsets[1:]] > before[offsets[1:] - num_targets])
    val = (tenth == HELD_OUT_TENTHS["val"]) & (num_targets > 0)
    test = (tenth == HELD_OUT_TENTHS["test"]) & (num_targets > 0)
    fold_in = lengths - num_targets
    return np.stack(
        [np.where(val | test, 0, lengths), np.where(val | test, fold_in, lengths), np.where(test, fold_in, lengths)],
        axis=1,
    )
