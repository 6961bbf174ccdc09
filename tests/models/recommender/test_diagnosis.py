"""The diagnosis of a log, on logs whose numbers are known."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender.prepare.diagnosis import jensen_shannon, shard_statistics
from models.recommender.prepare.funnel import funnel, type_sets
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.report.log_diagnosis import diagnosis_rows
from tests.kit.logs import RECOMMENDER, Row, make_log, prepare, prepared, write_csv

MONDAY = 1_704_067_200
"""2024-01-01T00:00:00Z."""


def sequences(path: Path, lists: list[list[str]]) -> Path:
    path.write_text("\n".join(" ".join([f"u{user}", *items]) for user, items in enumerate(lists)), encoding="utf-8")
    return path


def test_in_a_cycle_the_last_item_says_everything(tmp_path: Path, store: Store) -> None:
    lists = [[f"i{(user + place) % 20:02d}" for place in range(12)] for user in range(200)]
    raw = sequences(tmp_path / "log.txt", lists)
    found = prepared(store, raw, split="leave-one-out").card()["diagnosis"]
    assert found["branching"] == {"followers": 1.0, "perplexity": 1.0}
    assert found["history_dependence"] == {
        "hit_rate_at_10_transitions": 1.0,
        "hit_rate_at_10_popularity": pytest.approx(0.5, abs=0.01),
        "sampled": 200,
    }
    assert found["repeat_rate"] == 0.0
    assert found["events_per_user"] == {"mean": 12.0, "p10": 12, "median": 12, "p90": 12, "p99": 12, "max": 12}
    assert "seasonality" not in found


def test_at_random_the_last_item_says_nothing(tmp_path: Path, store: Store) -> None:
    draw = random.Random(0)
    lists = [[f"i{draw.randrange(40)}" for _ in range(30)] for _ in range(2_000)]
    raw = sequences(tmp_path / "log.txt", lists)
    found = prepared(store, raw, split="leave-one-out").card()["diagnosis"]
    assert found["branching"]["perplexity"] == pytest.approx(40, abs=1)
    assert found["branching"]["followers"] == 40
    rates = found["history_dependence"]
    assert rates["hit_rate_at_10_transitions"] == pytest.approx(0.25, abs=0.03)
    assert rates["hit_rate_at_10_popularity"] == pytest.approx(0.25, abs=0.03)


def test_sessions_seasonality_and_repeats_are_counted(tmp_path: Path, store: Store) -> None:
    # Four users buy on ten Mondays at 9:00 and on one Wednesday at 18:00; the second event of a visit is a reload.
    visits = [MONDAY + 7 * 86_400 * week + 9 * 3600 for week in range(10)] + [MONDAY + 9 * 86_400 + 18 * 3600]
    rows: list[Row] = [
        {"user_id": f"u{user}", "item_id": item, "timestamp": visit + 60 * place}
        for user in range(4)
        for number, visit in enumerate(visits)
        for place, item in enumerate([f"i{number}", f"i{number}", "same"])
    ]
    found = prepared(store, write_csv(tmp_path / "log.csv", rows)).card()["diagnosis"]
    assert found["sessions"]["count"] == 44
    assert found["sessions"]["per_user"] == 11.0
    assert found["sessions"]["events"]["median"] == 3
    assert found["seasonality"] == {
        "busiest_weekday": "Monday",
        "busiest_weekday_share": round(10 / 11, 4),
        "busiest_hour": 9,
        "busiest_hour_share": round(10 / 11, 4),
    }
    assert found["immediate_repeat_rate"] == round(1 / 3, 4)
    assert found["repeat_rate"] == round((33 - 12) / 33, 4)


def test_cold_users_and_items_are_those_without_a_training_event(tmp_path: Path, store: Store) -> None:
    rows: list[Row] = [
        {"user_id": f"u{place % 4}", "item_id": f"i{place % 3}", "timestamp": MONDAY + 3600 * place}
        for place in range(80)
    ]
    late = [("new1", "i0"), ("new2", "i1"), ("u0", "fresh"), ("u1", "i2")]
    for place, (user, item) in enumerate(late):
        rows.append({"user_id": user, "item_id": item, "timestamp": MONDAY + 86_400 * 10 + 60 * place})
    settings = {"val_from": "2024-01-03T00:00:00Z", "test_from": "2024-01-10T00:00:00Z"}
    found = prepared(store, write_csv(tmp_path / "log.csv", rows), **settings).card()["diagnosis"]
    assert found["cold"]["test"] == {"users": 0.5, "items": 0.25, "events_on_cold_items": 0.25}
    assert found["cold"]["val"] == {"users": 0.0, "items": 0.0, "events_on_cold_items": 0.0}


def test_the_drift_is_zero_between_equal_and_one_between_disjoint_popularities() -> None:
    first, other = np.array([0, 3, 1, 0]), np.array([0, 0, 0, 5])
    assert jensen_shannon(first, first * 7) == pytest.approx(0)
    assert jensen_shannon(first, other) == pytest.approx(1)


def test_the_funnel_counts_pairs_of_user_and_item() -> None:
    # Pairs 1 to 4 are viewed, the first two also put into a cart, the first bought; pair 5 is bought without a view.
    pair = np.array([1, 2, 3, 4, 4, 1, 2, 1, 5])
    types = np.array([3, 3, 3, 3, 3, 1, 1, 2, 2], np.uint8)
    found = funnel(type_sets(pair, types), ["cart", "purchase", "view"])
    assert found["pairs"] == {"view": 4, "cart": 2, "purchase": 2}
    assert found["conversion"] == {"view -> cart": 0.5, "cart -> purchase": 0.5}


def test_the_diagnosis_does_not_depend_on_the_number_of_workers(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    (tmp_path / "out").mkdir()
    with ThreadPoolExecutor(7) as executor:
        RECOMMENDER.prepare(PrepareConfig(raw=str(raw)), tmp_path / "out", executor)
    assert prepared(store, raw).card() == Prepared(tmp_path / "out").card()


def test_of_a_large_log_transitions_are_counted_from_some_items_only(tmp_path: Path, store: Store) -> None:
    data = prepared(store, write_csv(tmp_path / "log.csv", make_log(2_000)))
    counts = []
    for every in (1, 4):
        parts = [
            shard_statistics(data.path / "shards", shard, num_items=12, every=every).transitions for shard in range(32)
        ]
        counts.append({int(key) // 13 for part in parts for key in part.keys})
    assert counts[1] < counts[0]
    assert 0 < len(counts[1]) <= 6


def test_the_rows_for_people_name_every_part_and_old_cards_have_none(tmp_path: Path, store: Store) -> None:
    rows = [{**row, "session_id": "s", "user_id": ""} for row in make_log(20)] + make_log()
    details = prepare(store, PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", rows)))).details
    shown = {title: value for title, value, _ in diagnosis_rows(details)}
    assert shown["Anonymous sessions"] == "1 with 20 rows"
    assert {"Events per user", "Branching", "Drift from train to test", "Likely bots", "Cold in test"} <= shown.keys()
    del details["diagnosis"]
    assert diagnosis_rows(details) == []


def test_types_are_counted_without_bots_and_repeats_of_a_type_collapse(tmp_path: Path, store: Store) -> None:
    rows: list[Row] = []
    for user in range(8):
        for place, kind in enumerate(["view", "view", "cart", "view", "purchase"]):
            moment = MONDAY + 86_400 * user + 60 * place
            rows.append({"user_id": f"u{user}", "item_id": f"i{user % 2}", "timestamp": moment, "event_type": kind})
    bot = [
        {"user_id": "bot", "item_id": f"b{n}", "timestamp": MONDAY + n // 2, "event_type": "crawl"} for n in range(900)
    ]
    raw = write_csv(tmp_path / "log.csv", [*rows, *bot])
    data = prepared(store, raw, split="leave-one-out", collapse_repeats=True, target=("all",))
    card = data.card()
    assert card["bad"] == {"likely_bot": 900}
    assert card["left_out_events"]["collapsed"] == 8, "only the second of two views in a row"
    assert card["diagnosis"]["event_types"] == {"cart": 8, "crawl": 0, "purchase": 8, "view": 16}
    assert card["diagnosis"]["funnel"]["conversion"]["cart -> purchase"] == 1.0
