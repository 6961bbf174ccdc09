"""The steps of `prepare` that process one part of the log each; any number of workers writes the same files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.arrays import load_array
from models.raw.quarantine import Quarantine
from models.raw.tables import read
from models.recommender.prepare.bots import Peaks, busiest_periods, count_peaks
from models.recommender.prepare.digest import digest_of_shard
from models.recommender.prepare.erased_rows import set_aside
from models.recommender.prepare.event_types import Details, LogTypes
from models.recommender.prepare.events import (
    hash_ids,
)
from models.recommender.prepare.identity import LOGIN_SCHEMA, spill_by_user
from models.recommender.prepare.moments import moment_order
from models.recommender.prepare.scanned import Scan, Scanned, check_rows, rows_of_erased
from models.recommender.prepare.sessions import immediate_repeats, number_sessions
from models.recommender.prepare.spill import Spill, load
from models.recommender.prepare.splits import Cut, count_users, split_users

POSITIONS_PER_FILE = 2**40
NEVER = np.iinfo(np.int64).max
STOP = "stop"

Int64s = npt.NDArray[np.int64]


class Stopped(Exception):
    """The driver has failed or was interrupted, so this worker stops too."""


@dataclass(frozen=True)
class Sorted:
    """Counts from sorting a partition; its items are in its work directory."""

    num_users: int
    num_events: int
    num_duplicates: int
    first_s: int
    last_s: int
    num_of_type: dict[str, int]
    """Events of each type; those without one under the empty name."""
    num_amounts: int
    """Events with a price."""
    num_collapsed: int = 0
    peaks: tuple[Peaks, ...] = ()
    """How many users have how many events in their busiest periods; see bots."""

    @property
    def types(self) -> list[str]:
        """The types of the partition, in ascending order."""
        return sorted(name for name in self.num_of_type if name)


@dataclass(frozen=True)
class Rules:
    """How the events of a user are put in order."""

    has_times: bool
    gap_us: int
    """Microseconds after which an event without a session id begins a session."""
    collapse_repeats: bool = False


@dataclass(frozen=True)
class Sharded:
    """Statistics of a finished shard; arrays have one entry per item of the vocabulary."""

    digest: str
    train_counts: Int64s
    train_first_s: Int64s
    train_last_s: int
    longest: int
    num_events: dict[str, int]
    num_users: dict[str, int]
    num_examples: dict[str, int]
    """Users with an event in each split that is a target."""
    num_of_type: Int64s
    """Training events by code of their type, from 0, the events without a type."""
    num_fold_in_events: int
    """Events of held-out users that are only used as their history."""


def scan(task: Scan) -> Scanned:
    """Read files once: good events go to the partition of their user, bad rows to quarantine."""
    seen = Scanned()
    name = f"{task.number:05d}"
    with (
        Quarantine(task.out / "quarantine" / f"{name}.parquet") as quarantine,
        Spill(task.work / "events", name) as by_user,
        Spill(task.work / "anonymous", name) as by_session,
        Spill(task.work / "identified", name) as by_event,
        Spill(task.work / "logins", f"erased-{name}", schema=LOGIN_SCHEMA) as logins,
    ):
        for number, source in task.sources:
            position = number * POSITIONS_PER_FILE
            for chunk in read(source):
                if (task.work / STOP).exists():
                    raise Stopped
                chunk, gone, num_lines = set_aside(chunk, source, task.columns, task.erased)
                good, position = check_rows(chunk, source, task, seen=seen, quarantine=quarantine, position=position)
                seen.num_erased += num_lines
                if gone.num_rows:
                    good = pa.concat_tables([good, rows_of_erased(gone, source, task, seen=seen, logins=logins)])
                identified = pc.is_valid(good["event_id"])
                seen.num_with_event_id += pc.sum(identified).as_py() or 0
                seen.num_anonymous += spill_by_user(good.filter(pc.invert(identified)), by_user, by_session)
                by_event.add_by(good.filter(identified), "event_id")
    seen.bad = quarantine.counts
    return seen


def keep_one_of_each_event(work: Path, partition: int) -> tuple[int, int]:
    """Keep the smallest row of each event_id, spill it by user, and return how many were dropped and have no user."""
    table = load(work / "identified" / f"{partition:05d}")
    encoded = pc.dictionary_encode(table["event_id"].combine_chunks())
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    repeated = np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, bool)
    single = table.filter(pa.array(~repeated))
    several = table.filter(pa.array(repeated)).sort_by(
        [(name, "ascending") for name in ("event_id", "user_id", "time_us", "session_id", "item_id", "content")]
    )
    identity = several["event_id"].to_numpy()
    first = np.ones(len(identity), bool)
    first[1:] = identity[1:] != identity[:-1]
    name = f"identified-{partition:05d}"
    with Spill(work / "events", name) as by_user, Spill(work / "anonymous", name) as by_session:
        kept = pa.concat_tables([single, several.filter(pa.array(first))])
        num_anonymous = spill_by_user(kept, by_user, by_session)
    return int((~first).sum()), num_anonymous


def sort_partition(work: Path, shards: Path, partition: int, *, rules: Rules) -> Sorted:
    """Sort a partition by user and time, drop exact duplicates, and write its shard except for items and splits."""
    table = load(work / "events" / f"{partition:05d}")
    users, user = _ranked(table["user_id"])
    items, item = _ranked(table["item_id"])
    _, session = _ranked(table["session_id"])
    time_us = table["time_us"].to_numpy()
    details = Details.of(*_ranked(table["event_type"]), table["amount"])
    keys = (
        user,
        time_us,
        session,
        moment_order(hash_ids(users)[user], hash_ids(items)[item], time_us),
        item,
        table["content"].to_numpy(),
    )
    del table
    order, is_repeat = _order(keys)
    described = (user, session, time_us, item, details.codes)
    order, sessions, num_collapsed = _in_sessions(order[~is_repeat], described, rules)
    user, time_us, item = user[order], time_us[order], item[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(users)))]).astype(np.int64)
    seconds = (
        time_us // 1_000_000 if rules.has_times else np.arange(len(user)) - np.repeat(offsets[:-1], np.diff(offsets))
    )
    peaks = busiest_periods(offsets, seconds) if rules.has_times else np.zeros((len(users), 0), np.int64)
    shard, scratch = shards / f"{partition:05d}", work / "sorted" / f"{partition:05d}"
    _save(shard, offsets=offsets, timestamps=seconds.astype(np.int64))
    if rules.has_times:
        _save(shard, sessions=sessions)
    pq.write_table(pa.table({"user_id": users}), shard / "users.parquet", compression="zstd")
    _save(scratch, items=item.astype(np.int32), peaks=peaks)
    pq.write_table(pa.table({"item_id": items}), scratch / "items.parquet")
    first, last = (int(seconds.min()), int(seconds.max())) if len(seconds) else (NEVER, -NEVER)
    num_of_type, num_amounts = details.write(scratch, order)
    counts = (len(users), len(user), int(is_repeat.sum()))
    return Sorted(*counts, first, last, num_of_type, num_amounts, num_collapsed, tuple(count_peaks(peaks)))


def _save(directory: Path, **arrays: npt.NDArray[np.integer]) -> None:
    directory.mkdir(parents=True, exist_ok=True)  # a task whose worker died is retried
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", array)


def count_examples(
    work: Path, shards: Path, part: tuple[int, Sorted], *, cut: Cut, log_types: LogTypes
) -> dict[str, int]:
    """How many users of a sorted partition would be evaluated with other targets, in validation and test."""
    types = log_types.load(work / "sorted" / f"{part[0]:05d}", part[1].types)
    offsets, _, is_target, splits = _split(shards / f"{part[0]:05d}", types, cut)
    return count_users(offsets, splits, is_target)


def write_shard(
    work: Path, shards: Path, part: tuple[int, Sorted], *, num_items: int, cut: Cut, log_types: LogTypes
) -> Sharded:
    """Index the items and types of a sorted partition, given with its number, and split each user's events."""
    shard, scratch = shards / f"{part[0]:05d}", work / "sorted" / f"{part[0]:05d}"
    items = load_array(scratch / "index.npy")[load_array(scratch / "items.npy")]
    types = log_types.load(scratch, part[1].types)
    offsets, seconds, is_target, splits = _split(shard, types, cut)
    np.save(shard / "items.npy", items)
    np.save(shard / "splits.npy", splits)
    log_types.write(scratch, shard, types)
    lengths = np.diff(offsets)
    position = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    in_train = position < np.repeat(splits[:, 0], lengths)
    first = np.full(num_items + 1, NEVER)
    np.minimum.at(first, items[in_train], seconds[in_train])
    sizes = {"train": splits[:, 0], "val": splits[:, 2] - splits[:, 1], "test": lengths - splits[:, 2]}
    trained_types = types[in_train] if types is not None else np.zeros(0, np.uint8)
    return Sharded(
        digest=digest_of_shard(shard),
        train_counts=np.bincount(items[in_train], minlength=num_items + 1)[1:],
        train_first_s=first[1:],
        train_last_s=int(seconds[in_train].max(initial=-NEVER)),
        longest=int(lengths.max(initial=0)),
        num_events={name: int(size.sum()) for name, size in sizes.items()},
        num_users={name: int((size > 0).sum()) for name, size in sizes.items()},
        num_examples=count_users(offsets, splits, is_target),
        num_of_type=np.bincount(trained_types, minlength=len(log_types.names) + 1),
        num_fold_in_events=int((splits[:, 1] - splits[:, 0]).sum()),
    )


def _split(
    shard: Path, types: npt.NDArray[np.uint8] | None, cut: Cut
) -> tuple[Int64s, Int64s, npt.NDArray[np.bool_] | None, Int64s]:
    """Offsets and times of a sorted partition, which of its events are targets (None: all), and the splits."""
    offsets, seconds = load_array(shard / "offsets.npy"), load_array(shard / "timestamps.npy")
    is_target = np.isin(types, cut.targets) if types is not None and cut.targets else None
    users = pq.read_table(shard / "users.parquet")["user_id"]
    return offsets, seconds, is_target, split_users(users, offsets, seconds, cut, is_target=is_target)


def _in_sessions(order: Int64s, keys: tuple[Int64s, ...], rules: Rules) -> tuple[Int64s, npt.NDArray[np.int32], int]:
    """The order without repeats to collapse, the session of each event, and the number of these repeats.

    `keys` are user, session, time, item and type. A sequence is one session.
    """
    user, session, time_us, item, kind = (key[order] for key in keys)
    numbers = np.zeros(len(order), np.int32)
    if rules.has_times:
        numbers = number_sessions(user, session, time_us, gap=rules.gap_us)
    if not rules.collapse_repeats:
        return order, numbers, 0
    again = immediate_repeats(user, numbers, item, kind)
    return order[~again], numbers[~again], int(again.sum())


def _ranked(column: pa.ChunkedArray) -> tuple[pa.Array, Int64s]:
    """The distinct texts in ascending order, and for each row the index of its text there; -1 for null."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order) + 1, np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(order)).to_numpy(zero_copy_only=False)
    return encoded.dictionary.take(pa.array(order)), rank[codes]


def _order(keys: tuple[npt.NDArray[np.integer], ...]) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Ascending order by the keys, the first one the most significant, and which rows repeat the one before."""
    varying = [key for key in keys if len(key) and key.min() != key.max()]
    order = np.lexsort(varying[::-1]) if varying else np.arange(len(keys[0]))
    is_repeat = np.ones(len(order), bool)
    is_repeat[:1] = False
    for key in varying:
        ordered = key[order]
        is_repeat[1:] &= ordered[1:] == ordered[:-1]
    return order, is_repeat
