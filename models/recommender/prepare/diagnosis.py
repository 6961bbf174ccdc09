"""Diagnosis of a prepared log: what kind of log it is, from statistics of its shards that add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.arrays import load_array
from models.recommender.prepare.funnel import funnel, type_sets
from models.recommender.prepare.transition_sample import TransitionSample, rank_next, sample_transitions
from models.recommender.schema import NUM_SHARDS

MAX_TRANSITIONS = 2_000_000
"""Of a larger log the transitions from every n-th item are counted, which limits them to about this many."""
SECONDS_PER_DAY, SECONDS_PER_HOUR = 86_400, 3_600
THURSDAY = 3
"""The weekday, from Monday, on which the epoch began."""
QUANTILES = {"p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99}

SPLITS = ("train", "history", "val", "test")
"""Codes of the splits; history is what held-out users are known by."""

Int64s = npt.NDArray[np.int64]
Counts = tuple[Int64s, Int64s]
"""Distinct values, and how often each occurs."""


@dataclass(frozen=True)
class ShardStatistics:
    """What the diagnosis needs of one shard."""

    events_per_user: Counts
    events_per_session: Counts | None
    num_repeats: int
    num_immediate_repeats: int
    of_item: dict[str, Int64s]
    """Events per item index, in each split."""
    held_out_users: dict[str, int]
    """Users with events in val and in test."""
    cold_users: dict[str, int]
    """Those without a training event."""
    by_hour: Int64s | None
    """Events per hour of the week, from Monday 0:00 UTC."""
    transitions: TransitionSample
    types: Counts | None
    """Events per code of a type."""
    type_sets: Counts | None
    """See funnel.type_sets."""


def diagnose(
    shards: Path,
    executor: Executor,
    *,
    num_items: int,
    type_names: Sequence[str] = (),
) -> dict[str, Any]:
    """The diagnosis of finished shards for the card; the same for any number of workers.

    `type_names` are the event types from code 1.
    """
    num_events = sum(len(load_array(path, mmap=True)) for path in shards.glob("*/items.npy"))
    one = partial(
        shard_statistics,
        shards,
        num_items=num_items,
        every=max(1, -(-num_events // MAX_TRANSITIONS)),
    )
    parts = list(executor.map(one, range(NUM_SHARDS)))
    of_item = {name: np.sum([part.of_item[name] for part in parts], axis=0) for name in parts[0].of_item}
    lengths = _add_up(part.events_per_user for part in parts)
    found: dict[str, Any] = {
        "events_per_user": _quantiles(lengths),
        "events_per_item": _rounded(num_events / max(1, int((sum(of_item.values()) > 0).sum()))),
        "repeat_rate": _share(sum(part.num_repeats for part in parts), num_events),
        "immediate_repeat_rate": _share(sum(part.num_immediate_repeats for part in parts), num_events),
        **rank_next([part.transitions for part in parts], popularity=of_item["train"]),
        "cold": {name: _cold(parts, of_item, name) for name in ("val", "test")},
        "drift": _drift(of_item["train"], of_item["test"]),
    }
    return found | _where_known(parts, type_names, num_users=int(lengths[1].sum()))


def in_schema(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """What settings at auto depend on, as fields of the schema."""
    return {"p90_events_per_user": diagnosis["events_per_user"]["p90"]}


def _where_known(parts: Sequence[ShardStatistics], type_names: Sequence[str], *, num_users: int) -> dict[str, Any]:
    """What only logs with times, or with event types, have."""
    found: dict[str, Any] = {}
    sessions = [part.events_per_session for part in parts if part.events_per_session is not None]
    if sessions:
        found["sessions"] = _sessions(_add_up(sessions), num_users=num_users)
    hours = [part.by_hour for part in parts if part.by_hour is not None]
    if hours:
        found["seasonality"] = seasonality(np.sum(hours, axis=0))
    types = [part.types for part in parts if part.types is not None]
    if types and type_names:
        counts = dict(zip(*(column.tolist() for column in _add_up(types)), strict=True))
        found["event_types"] = {name: counts.get(code, 0) for code, name in enumerate(type_names, start=1)}
        found["funnel"] = funnel(_add_up(part.type_sets for part in parts if part.type_sets), type_names)
    return found


def shard_statistics(shards: Path, partition: int, *, num_items: int, every: int) -> ShardStatistics:
    """Read one finished shard; a log without times has no sessions."""
    shard = shards / f"{partition:05d}"
    items, offsets, splits = (load_array(shard / f"{name}.npy") for name in ("items", "offsets", "splits"))
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    session = load_array(shard / "sessions.npy") if (shard / "sessions.npy").exists() else None
    types = load_array(shard / "types.npy") if (shard / "types.npy").exists() else None
    split = _split_of_event(offsets, splits)
    pair = user * (num_items + 1) + items
    same_user = user[1:] == user[:-1]
    is_again = same_user & (items[1:] == items[:-1])
    sizes = {"val": splits[:, 2] - splits[:, 1], "test": lengths - splits[:, 2]}
    is_cold = splits[:, 0] == 0
    return ShardStatistics(
        events_per_user=_counts(lengths),
        events_per_session=None if session is None else _counts(_session_lengths(user, session)),
        num_repeats=len(items) - _num_distinct(pair),
        num_immediate_repeats=int(is_again.sum()),
        of_item={name: np.bincount(items[split == code], minlength=num_items + 1) for code, name in enumerate(SPLITS)},
        held_out_users={name: int((size > 0).sum()) for name, size in sizes.items()},
        cold_users={name: int((is_cold & (size > 0)).sum()) for name, size in sizes.items()},
        by_hour=None if session is None else _by_hour(load_array(shard / "timestamps.npy")),
        transitions=sample_transitions(items, same_user, split, num_items=num_items, every=every),
        types=None if types is None else _counts(types.astype(np.int64)),
        type_sets=None if types is None else type_sets(pair, types),
    )


def jensen_shannon(first: Int64s, second: Int64s) -> float:
    """The Jensen-Shannon divergence of two distributions of counts, in bits: 0 where equal, 1 where disjoint."""
    shares = [counts / max(1, counts.sum()) for counts in (first, second)]
    middle = (shares[0] + shares[1]) / 2
    return float(sum(_relative_entropy(share, middle) for share in shares) / 2)


def seasonality(by_hour: Int64s) -> dict[str, Any]:
    """Busiest weekday and hour (UTC) with their shares of the events; by_hour counts the hours of the week."""
    week = by_hour.reshape(7, 24)
    total = max(1, int(week.sum()))
    days, hours = week.sum(axis=1), week.sum(axis=0)
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    return {
        "busiest_weekday": names[int(days.argmax())],
        "busiest_weekday_share": _rounded(days.max() / total),
        "busiest_hour": int(hours.argmax()),
        "busiest_hour_share": _rounded(hours.max() / total),
    }


def _drift(train: Int64s, test: Int64s) -> dict[str, float]:
    """The divergence of item popularity in test from that in training, and that of as many events drawn from it."""
    shares = train / max(1, train.sum())
    drawn = np.random.default_rng(0).multinomial(int(test.sum()), shares) if train.any() else test
    return {
        "jensen_shannon": _rounded(jensen_shannon(train, test)),
        "by_chance": _rounded(jensen_shannon(train, drawn)),
    }


def _cold(parts: Sequence[ShardStatistics], of_item: dict[str, Int64s], name: str) -> dict[str, float]:
    new = of_item["train"] == 0
    held_out = of_item[name]
    return {
        "users": _share(sum(part.cold_users[name] for part in parts), sum(part.held_out_users[name] for part in parts)),
        "items": _share(int((held_out[new] > 0).sum()), int((held_out > 0).sum())),
        "events_on_cold_items": _share(int(held_out[new].sum()), int(held_out.sum())),
    }


def _sessions(lengths: Counts, *, num_users: int) -> dict[str, Any]:
    count = int(lengths[1].sum())
    single = int(lengths[1][lengths[0] == 1].sum())
    return {
        "count": count,
        "per_user": _rounded(count / max(1, num_users)),
        "events": _quantiles(lengths),
        "single_event_share": _share(single, count),
    }


def _split_of_event(offsets: Int64s, splits: Int64s) -> npt.NDArray[np.int8]:
    """The code of the split of each event."""
    lengths = np.diff(offsets)
    ends = np.concatenate([splits, lengths[:, None]], axis=1)
    sizes = np.diff(ends, axis=1, prepend=0)
    return np.repeat(np.tile(np.arange(len(SPLITS), dtype=np.int8), len(lengths)), sizes.ravel())


def _session_lengths(user: Int64s, session: npt.NDArray[np.int32]) -> Int64s:
    """Events of each session; those of a user may alternate."""
    if len(user) == 0:
        return np.zeros(0, np.int64)
    lengths: Int64s = np.unique(user * (int(session.max()) + 1) + session, return_counts=True)[1]
    return lengths


def _by_hour(seconds: Int64s) -> Int64s:
    hour = (seconds // SECONDS_PER_HOUR + THURSDAY * 24) % (7 * 24)
    counts: Int64s = np.bincount(hour, minlength=7 * 24)
    return counts


def _num_distinct(keys: Int64s) -> int:
    ordered = np.sort(keys)
    return int((np.diff(ordered) != 0).sum()) + (len(keys) > 0)


def _counts(values: Int64s) -> Counts:
    return np.unique(values, return_counts=True)


def _add_up(parts: Iterable[Counts]) -> Counts:
    columns = list(zip(*parts, strict=True))
    values, place = np.unique(np.concatenate(columns[0]), return_inverse=True)
    return values, np.bincount(place, weights=np.concatenate(columns[1])).astype(np.int64)


def _quantiles(counts: Counts) -> dict[str, float]:
    """Mean, maximum and quantiles of values given with their counts; a quantile is a value that occurs."""
    values, number = counts
    if len(values) == 0:
        return {}
    up_to = np.cumsum(number)
    found = {name: int(values[np.searchsorted(up_to, share * up_to[-1])]) for name, share in QUANTILES.items()}
    return {"mean": _rounded((values * number).sum() / up_to[-1]), **found, "max": int(values[-1])}


def _relative_entropy(share: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    some = share > 0
    return float((share[some] * np.log2(share[some] / other[some])).sum())


def _share(part: int, whole: int) -> float:
    return _rounded(part / whole) if whole else 0.0


def _rounded(value: float) -> float:
    return round(float(value), 4)
