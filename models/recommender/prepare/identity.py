"""Who an event without a user id belongs to: the user who logs in during its session, else an anonymous user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.erasure.erased import NOBODY, Erased
from models.recommender.prepare.events import ANONYMOUS
from models.recommender.prepare.spill import Spill, load, streams

LOGIN_SCHEMA = pa.schema([("session_id", pa.string()), ("user_id", pa.string()), ("time_us", pa.int64())])
"""The first event of each user in a session."""

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Named:
    """Counts from naming the users of anonymous events."""

    stitched_events: int = 0
    """Events that belong to a user who was identified in the same session."""
    events: int = 0
    """Events of sessions in which nobody was identified."""
    sessions: int = 0
    """Those sessions, each of which is an anonymous user."""


def spill_by_user(rows: pa.Table, by_user: Spill, by_session: Spill) -> int:
    """Spill events by their user, or by their session where they have none; returns the number of the latter."""
    is_known = pc.is_valid(rows["user_id"])
    num_anonymous = rows.num_rows - (pc.sum(is_known).as_py() or 0)
    if not num_anonymous:
        by_user.add_by(rows, "user_id")
        return 0
    by_user.add_by(rows.filter(is_known), "user_id")
    by_session.add_by(rows.filter(pc.invert(is_known)), "session_id")
    return num_anonymous


def collect_logins(work: Path, partition: int) -> None:
    """Spill, by session, when each user of a partition was first identified in each of their sessions."""
    with Spill(work / "logins", f"{partition:05d}", schema=LOGIN_SCHEMA) as by_session:
        for rows in streams(work / "events" / f"{partition:05d}"):
            spill_logins(rows, by_session)


def spill_logins(rows: pa.Table, by_session: Spill) -> None:
    """Spill, by session, when each user of some events was first identified in each of their sessions."""
    by_session.add_by(_first_events(rows.select(LOGIN_SCHEMA.names)), "session_id")


def name_anonymous(work: Path, partition: int, *, erased: Erased = NOBODY) -> Named:
    """Give the anonymous events of a partition of sessions their users, and spill them by user.

    Those of erased users, whose logins are known though their rows are not, are dropped and not counted.

    An event belongs to the user who was identified last in its session, at or before its own time; those before the
    first login to the first user (the smaller id, if two were identified at the same microsecond). Without a login the
    session is an anonymous user. All rows of a session are in one partition, so files and workers do not matter.
    """
    rows = load(work / "anonymous" / f"{partition:05d}")
    if rows.num_rows == 0:
        return Named()
    logins = _first_events(load(work / "logins" / f"{partition:05d}", schema=LOGIN_SCHEMA))
    session = rows["session_id"].combine_chunks()
    sessions = pc.unique(session)
    logins = logins.filter(pc.is_in(logins["session_id"], value_set=sessions))
    code = _codes(session, sessions)
    login_code, login_us = _codes(logins["session_id"].combine_chunks(), sessions), logins["time_us"].to_numpy()
    place, is_stitched = _last_login(login_code, login_us, code, rows["time_us"].to_numpy())
    user = pc.binary_join_element_wise(ANONYMOUS, session, "")
    if len(login_code):
        found = logins["user_id"].combine_chunks().take(pa.array(np.maximum(place, 0)))
        user = pc.if_else(pa.array(is_stitched), found, user)
    if erased:
        is_kept = rows["time_us"].to_numpy() >= erased.until_each(user) * 1e6
        rows, user = rows.filter(pa.array(is_kept)), user.filter(pa.array(is_kept))
        code, is_stitched = code[is_kept], is_stitched[is_kept]
    with Spill(work / "events", f"anonymous-{partition:05d}") as by_user:
        by_user.add_by(rows.set_column(rows.column_names.index("user_id"), "user_id", user), "user_id")
    num_stitched = int(is_stitched.sum())
    return Named(num_stitched, len(code) - num_stitched, len(np.unique(code[~is_stitched])))


def add_up(parts: Iterable[Named]) -> Named:
    """The sums over partitions."""
    counts = [(part.stitched_events, part.events, part.sessions) for part in parts]
    return Named(*(sum(column) for column in zip(*counts, strict=True)))


def _first_events(rows: pa.Table) -> pa.Table:
    """The first event of each user in each session, by session, time and user."""
    rows = rows.filter(pc.and_(pc.is_valid(rows["session_id"]), pc.is_valid(rows["user_id"])))
    first = rows.group_by(["session_id", "user_id"]).aggregate([("time_us", "min")])
    first = first.rename_columns({"time_us_min": "time_us"}).select(LOGIN_SCHEMA.names)
    return first.sort_by([("session_id", "ascending"), ("time_us", "ascending"), ("user_id", "ascending")])


def _codes(values: pa.Array, known: pa.Array) -> Int64s:
    found: Int64s = pc.index_in(values, value_set=known).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _last_login(
    login_code: Int64s, login_us: Int64s, code: Int64s, time_us: Int64s
) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """For each event the index of its login, and whether its session has one; logins are sorted within a session."""
    times = np.unique(login_us)
    order = np.argsort(login_code, kind="stable")
    # 2 i + 1 is the i-th login time, and what lies between two of them is the even number between.
    keys = login_code[order] * (2 * len(times) + 2) + 2 * np.searchsorted(times, login_us[order]) + 1
    at = np.searchsorted(times, time_us, side="left") + np.searchsorted(times, time_us, side="right")
    place = np.searchsorted(keys, code * (2 * len(times) + 2) + at, side="right") - 1
    first = np.searchsorted(login_code[order], code, side="left")
    has_login = first < np.searchsorted(login_code[order], code, side="right")
    place = np.maximum(place, first)
    return (order[np.minimum(place, len(order) - 1)] if len(order) else place), has_login
