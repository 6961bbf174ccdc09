"""What prepare leaves out: likely bots, and items and users with too few events."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli.context import Store
from models.errors import DataRejected
from models.prepared import Prepared
from models.recommender.prepare.bots import busiest_periods
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import Schema
from tests.kit.logs import RECOMMENDER, Row, contents, histories, make_log, prepare, prepared, quarantined, write_csv

NOON = 1_710_504_000
LEAVE_ONE_OUT: dict[str, Any] = {"split": "leave-one-out"}


def crawler(num_events: int, seconds: float, *, user: str = "crawler") -> list[Row]:
    """Events of a user on a different item each, evenly spread over some seconds from noon."""
    return [
        {"user_id": user, "item_id": f"c{place}", "timestamp": int(NOON + place * seconds / num_events), "price": "1"}
        for place in range(num_events)
    ]


def test_a_user_of_inhuman_speed_is_left_out_and_quarantined(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", [*make_log(), *crawler(2_900, 25 * 60)])
    outcome = prepare(store, PrepareConfig(raw=str(raw)))
    data = Prepared(Path(outcome.details["data"]))
    card = data.card()
    assert card["bad"] == {"likely_bot": 2_900}, "they do not count against --max-bad-fraction"
    assert (card["bots"]["users"], card["bots"]["events"]) == (1, 2_900)
    assert "crawler" not in histories(data)
    assert not any(item.startswith("c") for item in data.schema(Schema).items)
    rows = quarantined(data)
    assert {row["reason"] for row in rows} == {"likely_bot"}
    assert json.loads(rows[0]["row"]) == {"user_id": "crawler", "item_id": "c0", "timestamp": "2024-03-15T12:00:00Z"}
    assert card["rows"] == card["kept"] + card["duplicates"] + sum(card["bad"].values())
    assert any("likely bots" in note for note in card["notes"])


def test_a_log_is_the_same_with_and_without_a_bot(tmp_path: Path) -> None:
    clean = prepared(Store(tmp_path / "a"), write_csv(tmp_path / "clean.csv", make_log()))
    raw = write_csv(tmp_path / "log.csv", [*crawler(2_900, 25 * 60), *make_log()])
    (tmp_path / "out").mkdir()
    with ThreadPoolExecutor(5) as executor:
        RECOMMENDER.prepare(PrepareConfig(raw=str(raw)), tmp_path / "out", executor)
    assert contents(clean) == contents(Prepared(tmp_path / "out"))


def test_bots_can_be_kept(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", [*make_log(), *crawler(2_900, 25 * 60)])
    data = prepared(store, raw, keep_bots=True, **LEAVE_ONE_OUT)
    assert len(histories(data)["crawler"]) == 2_900
    assert data.card()["bots"]["users"] == 1
    assert data.card()["bad"] == {}


@pytest.mark.parametrize(
    ("num_events", "seconds"),
    [(290, 600), (2_900, 30 * 3600), (2_900, 0)],
    ids=["one every two seconds", "slowly for more than a day", "one basket"],
)
def test_a_busy_person_and_a_big_basket_are_no_bots(
    tmp_path: Path, store: Store, num_events: int, seconds: int
) -> None:
    raw = write_csv(tmp_path / "log.csv", [*make_log(), *crawler(num_events, seconds)])
    assert prepared(store, raw, **LEAVE_ONE_OUT).card()["bots"]["users"] == 0


def test_a_slow_crawler_is_found_by_its_day(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", [*make_log(), *crawler(4_000, 11 * 3600)])
    assert prepared(store, raw, **LEAVE_ONE_OUT).card()["bots"]["users"] == 1


def test_nobody_is_a_bot_where_everyone_is_that_fast(tmp_path: Path, store: Store) -> None:
    rows = [row for user in range(6) for row in crawler(400, 500, user=f"u{user}")]
    card = prepared(store, write_csv(tmp_path / "log.csv", rows), **LEAVE_ONE_OUT).card()
    assert card["bots"] == {
        "users": 0,
        "events": 0,
        "are_left_out": True,
        "events_in_600_s": 8_000,
        "events_in_86400_s": 8_000,
    }


def test_events_of_one_moment_count_as_at_most_thirty() -> None:
    seconds = np.array([NOON] * 100 + [NOON + 60] * 5 + [NOON + 700] + [NOON])
    peaks = busiest_periods(np.array([0, 106, 106, 107]), seconds)
    assert peaks.tolist() == [[35, 36], [0, 0], [1, 1]]


def core_log() -> list[Row]:
    """Two users and two items with three events each, and a chain in which each has too few without the next."""
    pairs = [("u1", "a"), ("u1", "b"), ("u1", "a"), ("u2", "a"), ("u2", "b"), ("u2", "b")]
    pairs += [("u3", "a"), ("u3", "b"), ("u3", "c"), ("u4", "c"), ("u4", "c"), ("u4", "d")]
    return [
        {"user_id": user, "item_id": item, "timestamp": 1_700_000_000 + 3600 * place}
        for place, (user, item) in enumerate(pairs)
    ]


def test_minimum_support_is_iterated_until_everything_left_has_enough(tmp_path: Path, store: Store) -> None:
    # d is rare, so u4 has two events left, so c has one, so u3 has two; a and b keep three each.
    raw = write_csv(tmp_path / "log.csv", core_log())
    data = prepared(store, raw, min_item_events=3, min_user_events=3, **LEAVE_ONE_OUT)
    found = {user: [item for item, _ in events] for user, events in histories(data).items()}
    assert found == {"u1": ["a", "b", "a"], "u2": ["a", "b", "b"]}
    card = data.card()
    assert card["left_out_events"] == {"rare_item": 2, "rare_user": 4, "collapsed": 0}
    assert card["rows"] == card["kept"] + sum(card["left_out_events"].values())
    assert data.schema(Schema).items == ["a", "b"]


def test_events_of_bots_support_no_item(tmp_path: Path, store: Store) -> None:
    bot = [{**row, "item_id": "d"} for row in crawler(1_500, 25 * 60)]
    raw = write_csv(tmp_path / "log.csv", [*core_log(), *bot])
    data = prepared(store, raw, min_item_events=3, min_user_events=3, **LEAVE_ONE_OUT)
    assert histories(data).keys() == {"u1", "u2"}
    card = data.card()
    assert card["bad"] == {"likely_bot": 1_500}
    assert card["left_out_events"] == {"rare_item": 2, "rare_user": 4, "collapsed": 0}


def test_minimum_support_of_sequences_counts_their_places_anew(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.txt").write_text("u1 rare a b a\nu2 a b b b\nu3 b\n", encoding="utf-8")
    data = prepared(store, tmp_path / "log.txt", min_item_events=2, min_user_events=2, **LEAVE_ONE_OUT)
    assert histories(data) == {"u1": [("a", 0), ("b", 1), ("a", 2)], "u2": [("a", 0), ("b", 1), ("b", 2), ("b", 3)]}


def test_workers_do_not_change_what_is_left_out(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log(300))
    config = PrepareConfig(raw=str(raw), min_item_events=20, min_user_events=6)
    two = Prepared(Path(prepare(store, config).details["data"]))
    (tmp_path / "out").mkdir()
    with ThreadPoolExecutor(7) as executor:
        RECOMMENDER.prepare(config, tmp_path / "out", executor)
    assert contents(two) == contents(Prepared(tmp_path / "out"))
    left = histories(two).values()
    counts = Counter(item for events in left for item, _ in events)
    assert two.card()["left_out_events"]["rare_user"] > 0
    assert (min(map(len, left)), min(counts.values())) >= (6, 20)


def test_too_much_support_leaves_nothing(tmp_path: Path, store: Store) -> None:
    with pytest.raises(DataRejected, match="--min-user-events 1000 leave 0 users"):
        prepared(store, write_csv(tmp_path / "log.csv", make_log(100)), min_user_events=1_000)
