"""New events in served histories: what is served is what `prepare` would have made of the log with the events."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.context import Store
from models.events.event import Event
from models.events.store import open_events
from models.features import FeatureStore, write_store
from models.prepared import Prepared
from models.recommender.data import MAX_SERVED_HISTORY, history_rows
from models.recommender.endpoints import FEATURES, RecommendationRequest
from models.recommender.new_events import EVENTS, TIMES, history_key, history_times, merge
from tests.kit.logs import Row, prepared, write_csv

START_S = 1_700_000_000
ASK = RecommendationRequest(user_id="ann")


def new_event(item: str, second: float, kind: str | None = "view", **fields: Any) -> Event:
    return Event(f"{item}-{second}", fields.get("user_id", "ann"), None, item, kind, second, seq=1)


def history(stored: list[Any], seconds: list[int], *events: Event) -> list[Any]:
    times = [after - before for before, after in zip([0, *seconds], seconds, strict=False)]
    merged = merge(ASK, {"history": {"ann": stored}, TIMES: {"ann": times}}, events)
    found: list[Any] = merged["history"]["ann"]
    return found


def test_new_events_follow_the_stored_ones_and_late_ones_take_their_place() -> None:
    found = history(["a", "b"], [10, 20], new_event("late", 15.5), new_event("c", 20.2), new_event("d", 30.0))

    assert found == ["a", ["late", "view"], "b", ["c", "view"], ["d", "view"]]


def test_an_exact_repeat_of_a_stored_event_counts_once() -> None:
    repeat, other_type = new_event("a", 10.7), new_event("a", 10.9, "purchase")

    assert history([["a", "view"], ["b", "view"]], [10, 20], repeat, other_type) == [
        ["a", "view"],
        ["a", "purchase"],
        ["b", "view"],
    ]
    assert history(["a", "b"], [10, 20], repeat, other_type) == ["a", "b"], "a log without types has the item alone"


def test_a_store_without_times_gets_the_events_at_the_end() -> None:
    merged = merge(ASK, {"history": {"ann": ["a", "b"]}}, [new_event("c", 5.0)])

    assert merged["history"]["ann"] == ["a", "b", ["c", "view"]]


def test_the_newest_events_are_kept() -> None:
    found = history(["a"] * MAX_SERVED_HISTORY, list(range(MAX_SERVED_HISTORY)), new_event("new", 1e9))

    assert len(found) == MAX_SERVED_HISTORY
    assert found[-1] == ["new", "view"]


def test_a_session_has_a_history_of_its_own_and_a_request_may_bring_one() -> None:
    assert history_key(RecommendationRequest(session_id="s1")) == "session:s1"
    assert history_key(RecommendationRequest(session_id="s1", user_id="ann")) == "ann"
    assert history_key(RecommendationRequest(session_id="s1", history=["a"])) is None
    assert history_key(RecommendationRequest()) is None


def test_stored_times_are_those_of_the_stored_history(tmp_path: Path, store: Store) -> None:
    rows = [{"user_id": f"u{n % 7}", "item_id": f"i{n % 5}", "timestamp": START_S + 60 * n} for n in range(70)]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")

    times = dict(history_times(data))

    assert list(accumulate(times["u3"])) == [START_S + 60 * n for n in range(3, 70, 7)]
    assert {user: len(found) for user, found in history_rows(data)} == {user: len(each) for user, each in times.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_served_history_is_what_prepare_makes_of_the_log_with_the_events(
    tmp_path: Path, store: Store, seed: int
) -> None:
    rows = log_of_sessions(random.Random(seed))
    old, new = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    columns = {"split": "leave-one-out", "keep_bots": True}
    before = prepared(store, write_csv(tmp_path / "before.csv", old), **columns)
    after = prepared(store, write_csv(tmp_path / "after.csv", rows), **columns)
    expected = {user: [list(each) for each in events] for user, events in history_rows(after)}

    # The store has all events, and the watermark is that of the first half.
    served = served_histories(tmp_path, before, rows, until=len(old), users=[*expected])

    assert len(new) > 100
    assert {user: served[user] for user in expected} == expected


def log_of_sessions(draw: random.Random) -> list[Row]:
    """Events in order of time: of users, of sessions, and of sessions in which users log in.

    Some of the second half are of one moment. In the first half none is, as stored times are in seconds only.
    """
    rows = []
    for number in range(400):
        session = draw.choice(["", *(f"s{each}" for each in range(number // 10, number // 10 + 4))])
        user = draw.choice(["", "ann", "bob", "eve"]) if session else draw.choice(["ann", "bob", "eve"])
        item = f"i{2 * draw.randrange(5) + number % 2}"  # the two of a moment differ
        row = {"event_id": f"e{number}", "user_id": user, "session_id": session, "item_id": item}
        kind = draw.choice(["view", "purchase"])
        place = number - number % draw.randrange(1, 3) if number >= 200 else number
        rows.append({**row, "event_type": kind, "timestamp": START_S + 30 * place})
    return rows


def served_histories(
    directory: Path, data: Prepared, rows: list[Row], *, until: int, users: list[str]
) -> dict[str, list[Any]]:
    events = open_events(str(directory / "events.sqlite"))
    events.append(
        [
            Event(
                row["event_id"],
                row["user_id"] or None,
                row["session_id"] or None,
                row["item_id"],
                row["event_type"],
                row["timestamp"],
            )
            for row in rows
        ]
    )
    write_store(directory / "features.sqlite", FEATURES, data)
    features = FeatureStore(directory / "features.sqlite", read_only=True)
    found = {}
    for user in users:
        is_session = user.startswith("session:")
        name = user.removeprefix("session:")
        asked = {"user_id": None if is_session else name, "session_id": name if is_session else None}
        request = RecommendationRequest.model_validate(asked)
        values = features.read(FEATURES, request).values
        values = {**values, TIMES: {user: dict(history_times(data)).get(user, [])}}
        merged = EVENTS.merge(request, values, events.of(**asked, after_seq=until))
        found[user] = [list(each) for each in merged["history"].get(user, [])]
    events.close()
    features.close()
    return found
