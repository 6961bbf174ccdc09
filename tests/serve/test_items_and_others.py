"""Live items together with events, broken feature stores, large requests and health."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.events.store import open_events
from models.features import write_store
from models.items.sqlite import ItemsUnreadable, SqliteItems
from serve import json_bodies
from serve.json_bodies import LARGE_BYTES
from tests.kit.live_shop import FAMILY, Replica, Shop
from tests.serve.test_request_limits import encoding_threads
from tests.serve.test_service import assert_problem


@pytest.fixture
def replica(live_shop: Shop) -> Replica:
    """A replica that also takes events."""
    address = str(live_shop.directory / "events.sqlite")
    open_events(address).close()
    return live_shop.replica(events=address)


def sent(replica: Replica, item: str, **more: Any) -> Any:
    """What became of an event of the user ann."""
    response = replica.client.post("/v1/events", json={"user_id": "ann", "item_id": item, **more})
    assert response.status_code == 200, response.text
    return response.json()["results"][0]


def for_ann(replica: Replica, **more: Any) -> tuple[str, list[str]]:
    """The source and the items of what is recommended to her."""
    response = replica.client.post("/v1/recommendations", json={"user_id": "ann", "count": 3, **more})
    assert response.status_code == 200, response.text
    return response.json()["source"], [item["item_id"] for item in response.json()["items"]]


# Events


def test_an_event_of_a_new_item_is_known_and_changes_the_next_answer(replica: Replica) -> None:
    replica.put({"item_id": "tools-new", "kind": "tools"})

    result = sent(replica, "tools-new")

    assert (result["outcome"], result["item_known"]) == ("accepted", True)
    source, items = for_ann(replica)
    assert source == "personal"
    assert items and all(item.startswith("tools") for item in items)
    assert "tools-new" not in items
    assert "tools-new" in for_ann(replica, exclude_seen=False, count=20)[1]


def test_an_event_that_came_before_its_item_counts_once_the_item_is_put(replica: Replica) -> None:
    assert sent(replica, "tools-new")["item_known"] is False
    assert for_ann(replica)[0] == "popular"

    replica.put({"item_id": "tools-new", "kind": "tools"})

    source, items = for_ann(replica)
    assert (source, items[0].startswith("tools")) == ("personal", True)


def test_an_event_of_an_item_like_none_is_accepted_and_said_to_be_unknown(replica: Replica) -> None:
    replica.put({"item_id": "mystery"})

    result = sent(replica, "mystery")

    assert (result["outcome"], result["item_known"]) == ("accepted", False)
    assert for_ann(replica)[0] == "popular"


@pytest.mark.parametrize("is_new", [True, False])
def test_a_withdrawn_item_with_events_is_not_recommended_and_still_says_what_the_user_likes(
    replica: Replica, is_new: bool
) -> None:
    item = "tea-new" if is_new else "tea2"
    replica.put({"item_id": item, "kind": "tea"})
    replica.client.delete(f"/v1/items/{item}")

    result = sent(replica, item)

    assert (result["outcome"], result["item_known"]) == ("accepted", True)
    source, items = for_ann(replica)
    assert (source, items[0][:3]) == ("personal", "tea")
    for more in ({}, {"exclude_seen": False}, {"filter": {"kind": "tea"}, "exclude_seen": False}):
        assert item not in for_ann(replica, count=40, **more)[1]


def test_a_filter_leaves_out_a_new_item_that_the_user_has_seen_or_the_request_excludes(replica: Replica) -> None:
    replica.put({"item_id": "tea-a", "kind": "tea", "price": 7}, {"item_id": "tea-b", "kind": "tea", "price": 7})
    cheap = {"price": {"min": 6, "max": 8}}
    assert set(for_ann(replica, filter=cheap)[1]) == {"tea-a", "tea-b"}

    sent(replica, "tea-a")

    assert for_ann(replica, filter=cheap)[1] == ["tea-b"]
    assert for_ann(replica, filter=cheap, exclude=["tea-b"])[1] == []


# Broken stores


def overwritten(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


def with_a_damaged_item_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('UPDATE feature SET value = \'{"types": {"kind": "list"}}\' WHERE name = \'item_table\'')


def with_half_a_value(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE feature SET value = '{\"types' WHERE name = 'item_table'")


FAULTS = (Path.unlink, overwritten, with_a_damaged_item_table, with_half_a_value)


@pytest.mark.parametrize("broken", FAULTS)
def test_a_feature_store_that_cannot_be_read_refuses_puts_alone_and_is_followed_again(
    live_shop: Shop, broken: Callable[[Path], None]
) -> None:
    content = live_shop.features.read_bytes()
    broken(live_shop.features)

    replica = live_shop.replica()

    assert "tea2" in replica.recommended("tea1")
    assert_problem(replica.client.put("/v1/items", json={"item_id": "tea-new", "kind": "tea"}), 503)
    assert degraded(replica) == 2
    repaired(live_shop.features, content)
    replica.live.refresh()
    replica.put({"item_id": "tea-new", "kind": "tea"})
    assert "tea-new" in replica.recommended("tea1")
    assert replica.live.fault is None


def test_items_are_followed_with_the_table_of_before_while_a_newer_feature_store_cannot_be_read(
    live_shop: Shop, replica: Replica
) -> None:
    repaired(live_shop.features, b"not a database" * 1000)

    replica.put({"item_id": "tea-new", "kind": "tea"})

    assert "tea-new" in replica.recommended("tea1")
    assert replica.live.fault is not None
    assert "features.sqlite" in replica.live.fault
    assert degraded(replica) == 2


def test_a_feature_store_of_another_item_table_counts_for_the_items_that_were_put(
    live_shop: Shop, replica: Replica
) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea"})

    without_table = [each for each in FAMILY.features if each.name != "item_table"]
    write_store(live_shop.features, without_table, live_shop.data)
    replica.live.refresh()

    assert replica.live.view.counts()["new_without_neighbours"] == 1


def test_a_damaged_store_of_items_is_seen_by_health_and_answers_go_on(live_shop: Shop) -> None:
    overwritten(live_shop.items)

    replica = live_shop.replica()

    assert degraded(replica) == 2
    assert "items.sqlite" in replica.client.get("/v1/models").json()["degraded"]
    assert "tea2" in replica.recommended("tea1")


def test_a_store_of_items_that_cannot_be_written_is_said_where_the_answer_points(
    live_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: Any, **__: Any) -> int:
        raise ItemsUnreadable("items.sqlite is damaged")

    replica = live_shop.replica()
    with monkeypatch.context() as patched:
        patched.setattr(SqliteItems, "put", damaged)
        refused = replica.client.put("/v1/items", json=[{"item_id": "tea9"}])
    assert refused.status_code == 503
    assert degraded(replica) == 2

    assert replica.client.put("/v1/items", json=[{"item_id": "tea9"}]).status_code == 200
    assert degraded(replica) == 0


def degraded(replica: Replica) -> int:
    """In how many of the two places that say it a replica says that it is degraded."""
    health, info = replica.client.get("/healthz"), replica.client.get("/v1/models").json()
    assert health.status_code == 200
    return [health.json()["status"] == "degraded", info["degraded"] is not None].count(True)


def repaired(path: Path, content: bytes) -> None:
    """Put another file in its place, as `deploy` does."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


# Large requests


@pytest.mark.parametrize("is_large", [True, False])
def test_a_large_body_is_parsed_off_the_event_loop(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    threads, parse = list[str](), json_bodies.parse

    def noted(body: bytes) -> Any:
        threads.append(threading.current_thread().name)
        return parse(body)

    monkeypatch.setattr(json_bodies, "parse", noted)
    replica.put(*[{"item_id": "tea2", "kind": "tea" * 1000}] * (LARGE_BYTES // 3000 + 1 if is_large else 1))

    assert [name.startswith("work") for name in threads] == [is_large]


@pytest.mark.parametrize(("num_items", "asked"), [(3, "price"), (1001, "price"), (1001, "kind")])
def test_a_filter_of_many_live_values_is_not_evaluated_on_the_event_loop(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, num_items: int, asked: str
) -> None:
    for start in range(0, num_items, 1000):
        replica.put(*({"item_id": f"new-{n}", "price": n} for n in range(start, min(num_items, start + 1000))))
    threads = encoding_threads(replica.service, monkeypatch)

    for_ann(replica, filter={"price": 20} if asked == "price" else {"kind": "tea"})

    assert [name.startswith("work") for name in threads] == [num_items > 1000 and asked == "price"]


def test_a_large_request_without_live_items_has_none_in_the_thread_that_encodes_it(replica: Replica) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea"})
    asked = {"history": ["tea1"], "count": 20, "exclude": ["x" * 100] * (LARGE_BYTES // 100)}

    found = {
        headers.get("Shopkeeper-Prepared-Only"): replica.client.post("/v1/recommendations", json=asked, headers=headers)
        for headers in ({}, {"Shopkeeper-Prepared-Only": "1"})
    }

    assert "tea-new" in {item["item_id"] for item in found[None].json()["items"]}
    assert "tea-new" not in {item["item_id"] for item in found["1"].json()["items"]}
