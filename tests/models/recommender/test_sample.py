"""The synthetic shop: deterministic, with known transitions and a known share of dirty rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.recommender.config import Config
from models.recommender.endpoints import ENDPOINTS
from models.recommender.prepare.pipeline import prepare
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.sample import sample, write_sample


def test_the_same_seed_gives_the_same_shop_and_another_gives_another(tmp_path: Path) -> None:
    sizes = {"num_users": 50, "num_items": 30, "num_events": 500}
    first, again = (write_sample(tmp_path / name, **sizes) for name in ("first", "again"))
    other = write_sample(tmp_path / "other", **sizes, seed=1)
    assert pq.read_table(first.events).equals(pq.read_table(again.events))
    assert not pq.read_table(first.events).equals(pq.read_table(other.events))


def test_the_known_transitions_are_the_most_frequent_in_the_log(tmp_path: Path) -> None:
    shop = write_sample(tmp_path, num_users=600, num_items=60, num_events=6_000)
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    table = pq.read_table(shop.events).sort_by("event_id")
    rows = list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    for (user, item), (next_user, next_item) in pairwise(rows):
        if user == next_user and item != next_item:
            follows[item][next_item] += 1
    found = [follows[item].most_common(1)[0][0] == answer[0] for item, answer in shop.followers.items()]
    assert sum(found) > 0.7 * len(found)


def test_no_item_follows_itself(tmp_path: Path) -> None:
    shop = write_sample(tmp_path, num_users=10, num_items=30, num_events=100)
    assert not [item for item, answer in shop.followers.items() if item in answer or len(set(answer)) < len(answer)]


def test_prepare_counts_the_dirty_rows_by_reason_and_accepts_the_rest(tmp_path: Path) -> None:
    shop = write_sample(tmp_path / "raw", num_users=200, num_items=60, num_events=4_000)
    out = tmp_path / "data"
    out.mkdir()
    with ThreadPoolExecutor(1) as executor:
        prepare(PrepareConfig(raw=str(shop.events), items=str(shop.items)), out, executor)
    num_events = pq.read_table(shop.events).num_rows
    reasons = Counter(pq.read_table(out / "quarantine")["reason"].to_pylist())
    assert reasons["missing_user_id"] >= 8
    assert reasons["bad_timestamp"] >= 7  # one row may also lack its user
    assert sum(reasons.values()) < 0.01 * num_events


def test_the_settings_and_questions_of_the_sample_are_valid(tmp_path: Path) -> None:
    offered = sample(tmp_path)
    PrepareConfig(**offered.prepare)
    Config(**offered.train)
    assert [ENDPOINTS[0].Request(**question.request) for question in offered.questions]


def test_a_shop_that_is_too_small_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a shop of 5 users, 2 items"):
        write_sample(tmp_path, num_users=5, num_items=2, num_events=100)
