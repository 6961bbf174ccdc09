"""Likely bots: users who act faster than people do, for ten minutes or all day long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.raw.quarantine import Quarantine

PERIODS_S = (600, 86_400)
"""Ten minutes of the clock, and a day (UTC)."""
MIN_EVENTS = (300, 3_000)
"""A likely bot has at least this many events in one period: one every two seconds, one every half minute."""
MAX_PER_MOMENT = 30
"""Events of a user with the same time, such as a basket, count as at most this many."""
TIMES_MEDIAN = 20
"""And at least this many times as many as the median user has in their busiest period."""
REASON = "likely_bot"
ROWS_AT_ONCE = 100_000

Int64s = npt.NDArray[np.int64]
Peaks = tuple[Int64s, Int64s]
"""Distinct values and how many users have each."""


def busiest_periods(offsets: Int64s, seconds: Int64s) -> Int64s:
    """Events of each user in their busiest period, for each of PERIODS_S: [U, 2]. Events are sorted by time."""
    num_users = len(offsets) - 1
    peaks = np.zeros((num_users, len(PERIODS_S)), np.int64)
    if len(seconds) == 0:
        return peaks
    user = np.repeat(np.arange(num_users), np.diff(offsets))
    moments, count = _runs(user, seconds)
    count = np.minimum(count, MAX_PER_MOMENT)
    for column, period in enumerate(PERIODS_S):
        starts, _ = _runs(user[moments], seconds[moments] // period)
        np.maximum.at(peaks[:, column], user[moments][starts], np.add.reduceat(count, starts))
    return peaks


def count_peaks(peaks: Int64s) -> list[Peaks]:
    """How many users have each number of events in their busiest period, per period."""
    return [np.unique(column, return_counts=True) for column in peaks.T]


def thresholds(parts: Sequence[Sequence[Peaks]]) -> tuple[list[int], int]:
    """Events in a period from which a user is a likely bot, and the number of (user, period) pairs that reach it."""
    limits, num_flagged = [], 0
    for column, least in enumerate(MIN_EVENTS):
        values = np.concatenate([part[column][0] for part in parts])
        counts = np.concatenate([part[column][1] for part in parts])
        order = np.argsort(values, kind="stable")
        values, up_to = values[order], np.cumsum(counts[order])
        median = int(values[np.searchsorted(up_to, up_to[-1] / 2)]) if len(values) else 0
        limits.append(max(least, TIMES_MEDIAN * median))
        num_flagged += int(counts[order][values >= limits[-1]].sum())
    return limits, num_flagged


def likely_bots(scratch: Path, limits: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which users of a sorted partition reach a limit in a period."""
    is_bot: npt.NDArray[np.bool_] = np.any(load_array(scratch / "peaks.npy") >= np.array(limits), axis=1)
    return is_bot


def quarantine_events(dropped: npt.NDArray[np.bool_], shard: Path, scratch: Path, path: Path, *, source: str) -> None:
    """Write some events of a sorted partition to quarantine: what is left of each row is its user, item and time."""
    users = pq.read_table(shard / "users.parquet")["user_id"].combine_chunks()
    items = pq.read_table(scratch / "items.parquet")["item_id"].combine_chunks()
    user = np.repeat(np.arange(len(users)), np.diff(load_array(shard / "offsets.npy")))
    item, seconds = load_array(scratch / "items.npy"), load_array(shard / "timestamps.npy")
    places = np.flatnonzero(dropped)
    with Quarantine(path) as quarantine:
        for start in range(0, len(places), ROWS_AT_ONCE):
            some = places[start : start + ROWS_AT_ONCE]
            rows = {
                "user_id": users.take(pa.array(user[some])),
                "item_id": items.take(pa.array(item[some])),
                "timestamp": np.char.add(seconds[some].astype("datetime64[s]").astype(str), "Z").tolist(),
            }
            reasons = pa.array([REASON]).take(pa.repeat(0, len(some)))
            quarantine.add_rows(pa.table(rows), reasons=reasons, source=source)


def _runs(*keys: Int64s) -> tuple[Int64s, Int64s]:
    """Where each run of equal keys starts, and its length."""
    starts = np.ones(len(keys[0]), bool)
    starts[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    first = np.flatnonzero(starts)
    return first, np.diff(np.append(first, len(keys[0])))
