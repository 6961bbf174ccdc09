"""Who events without a user id belong to, and which events of a user are one session."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store, UsageFailure
from models.errors import DataRejected
from models.prepared import Prepared
from models.recommender.prepare.sessions import gap_us
from models.recommender.prepare.settings import PrepareConfig
from tests.kit.logs import RECOMMENDER, Row, contents, histories, prepared, quarantined, write_csv

LEAVE_ONE_OUT: dict[str, Any] = {"split": "leave-one-out"}


def event(user: str, session: str, item: str, minute: int) -> Row:
    return {"user_id": user, "session_id": session, "item_id": item, "timestamp": 1_700_000_000 + 60 * minute}


def filler() -> list[Row]:
    """Users with enough events for every split."""
    return [event(f"f{user}", "", f"i{place}", 10_000 + place) for user in range(3) for place in range(5)]


def items_of(data: Prepared) -> dict[str, list[str]]:
    return {user: [item for item, _ in events] for user, events in histories(data).items()}


def sessions_of(data: Prepared) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for shard in data.shards():
        users = pq.read_table(shard / "users.parquet")["user_id"].to_pylist()
        offsets, sessions = np.load(shard / "offsets.npy"), np.load(shard / "sessions.npy")
        assert sessions.dtype == np.int32
        for place, user in enumerate(users):
            found[user] = sessions[offsets[place] : offsets[place + 1]].tolist()
    return found


def test_a_session_stands_in_for_a_missing_user(tmp_path: Path, store: Store) -> None:
    rows = [event("", "s1", "a", 0), event("", "s1", "b", 1), event("s1", "s2", "c", 2), event("", "", "d", 3)]
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *filler()]), max_bad_fraction=0.1, **LEAVE_ONE_OUT)
    found, card = items_of(data), data.card()
    assert found["session:s1"] == ["a", "b"]
    assert found["s1"] == ["c"], "a user whose id is that of a session is another one"
    assert card["anonymous"] == {"stitched_events": 0, "events": 2, "sessions": 1}
    assert card["bad"] == {"missing_user_id": 1}


def test_a_log_without_a_user_column_is_one_of_sessions(tmp_path: Path, store: Store) -> None:
    rows = [{**event("", f"s{user}", f"i{place}", place)} for user in range(3) for place in range(4)]
    for row in rows:
        del row["user_id"]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), **LEAVE_ONE_OUT)
    assert items_of(data) == {f"session:s{user}": ["i0", "i1", "i2", "i3"] for user in range(3)}


def test_a_log_without_users_and_sessions_is_rejected(tmp_path: Path, store: Store) -> None:
    rows = [{"item_id": "a", "timestamp": "2024-05-01"}]
    with pytest.raises(DataRejected, match="no column 'user_id'"):
        prepared(store, write_csv(tmp_path / "log.csv", rows))


def test_ids_that_could_be_mistaken_for_anonymous_users_are_bad(tmp_path: Path, store: Store) -> None:
    rows = [event("session:s1", "s1", "a", 0), event("", "s" * 250, "b", 1), event("u", "s" * 250, "c", 2)]
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *filler()]), max_bad_fraction=0.2, **LEAVE_ONE_OUT)
    assert [row["reason"] for row in quarantined(data)] == ["reserved_user_id", "too_long_session_id"]
    assert items_of(data)["u"] == ["c"]


def test_all_rows_of_a_session_belong_to_the_user_who_logs_in_later(tmp_path: Path, store: Store) -> None:
    rows = [event("", "s", "a", 0), event("", "s", "b", 1), event("u", "s", "c", 2), event("", "s", "d", 3)]
    rows += [event("u", "other", "e", 4), event("", "alone", "f", 5)]
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *filler()]), **LEAVE_ONE_OUT)
    found = items_of(data)
    assert found["u"] == ["a", "b", "c", "d", "e"]
    assert found["session:alone"] == ["f"]
    assert "session:s" not in found
    assert sessions_of(data)["u"] == [0, 0, 0, 0, 1]
    assert data.card()["anonymous"] == {"stitched_events": 3, "events": 1, "sessions": 1}


def test_of_two_users_in_a_session_the_first_gets_what_was_before_and_each_what_followed(
    tmp_path: Path, store: Store
) -> None:
    rows = [
        event("", "s", "before", 0),
        event("second", "s", "own2", 20),
        event("first", "s", "own1", 10),
        event("", "s", "at", 10),
        event("", "s", "between", 15),
        event("", "s", "after", 30),
        event("first", "s", "again", 40),
    ]
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *filler()]), **LEAVE_ONE_OUT)
    found = items_of(data)
    assert (found["first"][0], sorted(found["first"])) == ("before", ["again", "at", "before", "between", "own1"])
    assert found["second"] == ["own2", "after"]


def mixed_log() -> list[Row]:
    """A log of 40 sessions, some anonymous, some with one user or two, with and without event ids."""
    draw = random.Random(3)
    rows = []
    for number in range(600):
        session = f"s{draw.randrange(40)}"
        user = draw.choice(["", "", f"u{int(session[1:]) % 7}", f"u{draw.randrange(9)}"])
        row = event(
            user, draw.choice([session, session, ""]) if user else session, f"i{draw.randrange(15)}", number // 3
        )
        rows.append({**row, "event_id": draw.choice(["", f"e{draw.randrange(300)}"])})
    return rows


def test_files_order_and_workers_do_not_change_who_is_who(tmp_path: Path) -> None:
    rows = mixed_log()
    one = prepared(Store(tmp_path / "a"), write_csv(tmp_path / "one.csv", rows))
    shuffled = random.Random(1).sample(rows, len(rows))
    for place in range(5):
        write_csv(tmp_path / "many" / f"part-{place}.csv.gz", shuffled[place::5])
    (tmp_path / "out").mkdir()
    with ThreadPoolExecutor(5) as executor:
        RECOMMENDER.prepare(PrepareConfig(raw=str(tmp_path / "many")), tmp_path / "out", executor)
    many = Prepared(tmp_path / "out")
    assert contents(one) == contents(many)
    assert {**one.card(), "raw": ""} == {**many.card(), "raw": ""}
    assert one.card()["anonymous"]["stitched_events"] > 50


def test_a_pause_begins_a_session_where_there_is_no_session_id(tmp_path: Path, store: Store) -> None:
    rows = [event("u", "", f"i{minute}", minute) for minute in (0, 30, 61, 62)]
    rows += [event("v", session, f"i{place}", place) for place, session in enumerate(["x", "y", "x", "", "y", ""])]
    raw = write_csv(tmp_path / "log.csv", [*rows, *filler()])
    found = sessions_of(prepared(store, raw, **LEAVE_ONE_OUT))
    assert found["u"] == [0, 0, 1, 1]
    assert found["v"] == [0, 1, 0, 2, 1, 2], "sessions may alternate, and are numbered by their first events"
    longer = sessions_of(prepared(store, raw, session_gap="31m", **LEAVE_ONE_OUT))
    assert longer["u"] == [0, 0, 0, 0]


def test_a_duration_has_a_unit_or_is_in_minutes(tmp_path: Path, store: Store) -> None:
    assert [gap_us(text) // 1_000_000 for text in ("45s", "30m", "1.5h", "2d", "30")] == [45, 1800, 5400, 172_800, 1800]
    for wrong in ("", "half an hour", "0", "-5m"):
        with pytest.raises((ValueError, UsageFailure), match="--session-gap"):
            prepared(store, write_csv(tmp_path / "log.csv", filler()), session_gap=wrong)


def test_repeats_in_a_row_are_kept_unless_they_are_to_be_collapsed(tmp_path: Path, store: Store) -> None:
    kinds = [("a", 0), ("a", 1), ("b", 2), ("a", 3), ("a", 40)]
    rows = [event("u", "", item, minute) for item, minute in kinds]
    raw = write_csv(tmp_path / "log.csv", [*rows, *filler()])
    assert items_of(prepared(store, raw, **LEAVE_ONE_OUT))["u"] == ["a", "a", "b", "a", "a"]
    data = prepared(store, raw, collapse_repeats=True, **LEAVE_ONE_OUT)
    assert items_of(data)["u"] == ["a", "b", "a", "a"], "the last one is in another session"
    assert data.card()["left_out_events"]["collapsed"] == 1
