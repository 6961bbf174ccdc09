"""Live items over HTTP: new items are recommended, changes filter at once, withdrawn ones are gone, in all replicas."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from models import FAMILIES
from serve.live_items import LiveCatalogue
from tests.kit.live_shop import Replica, Shop

FAMILY = FAMILIES["recommender"]
NEVER_S = 3600.0


@pytest.fixture
def shop(live_shop: Shop) -> Shop:
    return live_shop


@pytest.fixture
def replica(shop: Shop) -> Replica:
    return shop.replica()


def test_a_new_item_close_to_what_the_user_likes_is_recommended_with_its_reason(replica: Replica) -> None:
    answer = replica.put({"item_id": "tea-new", "kind": "tea", "price": 20, "in_stock": True})

    assert answer["accepted"] == 1
    assert answer["results"][0]["item_known"] is False
    assert answer["results"][0]["similar_to"].startswith("tea")
    of_tea = replica.recommended("tea1", "tea2", "tea3", count=9)
    assert "tea-new" in of_tea
    assert of_tea["tea-new"].startswith("new item, similar to tea")
    assert "tea-new" not in replica.recommended("toys1", "toys2", "toys3", count=5)


def test_another_replica_shows_a_new_item_after_a_poll(shop: Shop, replica: Replica) -> None:
    other = shop.replica()
    replica.put({"item_id": "tea-new", "kind": "tea"})

    deadline = time.monotonic() + 50  # ten times what is promised
    while "tea-new" not in other.recommended("tea1", "tea2") and time.monotonic() < deadline:
        threading.Event().wait(0.1)

    assert "tea-new" in other.recommended("tea1", "tea2")
    assert other.client.get("/v1/models").json()["live_items"]["counts"]["new"] == 1


def test_a_refresh_reads_the_changed_items_only(shop: Shop, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    other = LiveCatalogue(_hook(), shop.schema, address=str(shop.items), feature_store=shop.features, poll_s=NEVER_S)
    replica.put({"item_id": "tea-a", "kind": "tea"}, {"item_id": "tea-b", "kind": "tea"})
    other.refresh()
    nearest = other.view.nearest  # type: ignore[attr-defined]

    replica.put({"item_id": "tea-c", "kind": "tea"})
    other.refresh()

    after = other.view.nearest  # type: ignore[attr-defined]
    assert after.keys() == {"tea-a", "tea-b", "tea-c"}
    assert after["tea-a"] is nearest["tea-a"]


def test_a_changed_stock_and_price_count_in_filters_and_in_every_replica(shop: Shop, replica: Replica) -> None:
    assert "tea2" in replica.recommended("tea1", filter={"in_stock": True, "kind": "tea"})
    assert "tea2" not in replica.recommended("tea1", filter={"price": {"min": 500}})

    replica.put({"item_id": "tea2", "in_stock": False, "price": 501.5})

    for each in (replica, shop.replica()):
        assert "tea2" not in each.recommended("tea1", filter={"in_stock": True, "kind": "tea"})
        assert "tea2" in each.recommended("tea1", filter={"in_stock": False, "kind": "tea"})
        assert set(each.recommended("tea1", filter={"price": {"min": 500}})) == {"tea2"}
        assert set(each.recommended("tea1", filter={"price": 501.5})) == {"tea2"}
        assert "tea2" not in each.recommended("tea1", filter={"price": 20})


def test_a_value_of_null_removes_that_of_the_item_table(replica: Replica) -> None:
    replica.put({"item_id": "tea2", "price": None})

    assert "tea2" not in replica.recommended("tea1", filter={"price": {"min": 0}})
    assert "tea2" in replica.recommended("tea1", filter={"kind": "tea"})


@pytest.mark.parametrize("item", ["tea2", "tea-new"])
def test_a_withdrawn_item_is_not_recommended_until_it_is_put_again(replica: Replica, item: str) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea"})
    assert item in replica.recommended("tea1")

    answer = replica.client.delete(f"/v1/items/{item}")

    assert (answer.status_code, answer.json()["state"]) == (200, "withdrawn")
    assert replica.client.delete(f"/v1/items/{item}").status_code == 200
    for path in ("recommendations", "similar_items"):
        assert item not in replica.recommended("tea1", path=path)
        assert item not in replica.recommended("tea1", path=path, filter={"kind": "tea"})
    replica.put({"item_id": item})
    assert item in replica.recommended("tea1")


def test_a_new_item_has_similar_items_and_is_similar_to_others(replica: Replica) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea", "price": 20})

    similar = replica.recommended("tea-new", path="similar_items", count=5)

    assert similar and all(item.startswith("tea") for item in similar)
    assert "tea-new" not in similar
    assert "tea-new" in replica.recommended("tea1", path="similar_items")


def test_a_new_item_counts_in_a_history_like_a_similar_one(replica: Replica) -> None:
    replica.put({"item_id": "tools-new", "kind": "tools"})

    found = replica.recommended("tools-new", count=3)

    assert found and all(item.startswith("tools") for item in found)
    assert "tools-new" not in found
    assert "often follows tools-new" in found.values()


def test_an_item_without_a_telling_attribute_is_found_by_filters_only_and_the_answer_says_so(replica: Replica) -> None:
    answer = replica.client.put(
        "/v1/items", json={"items": [{"item_id": "mystery", "colour": "red"}], "new_attributes": ["colour"]}
    ).json()

    assert "only a request with a filter finds it" in answer["results"][0]["note"]
    assert "mystery" not in replica.recommended("tea1", count=50)
    assert set(replica.recommended("tea1", filter={"colour": "red"})) == {"mystery"}
    assert replica.client.post("/v1/similar_items", json={"item_id": "mystery"}).status_code == 422


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (5, "an item is an object with an item_id, not int"),
        ({"kind": "tea"}, "the item_id is not usable: missing"),
        ({"item_id": "x" * 300}, "the item_id is not usable"),
        ({"item_id": " "}, "the item_id is not usable"),
        (
            {"item_id": "x", "pirce": 3},
            "'pirce' is no attribute of this shop; the attributes are in_stock, kind, price",
        ),
        ({"item_id": "x", "price": "cheap"}, "'price' is a number in the item table; 'cheap' is none"),
        ({"item_id": "x", "price": 10**400}, "'price' is too large"),
        ({"item_id": "x", "kind": {"a": 1}}, "'kind' is text, numbers or a list of them"),
        ({"item_id": "x", "kind": " "}, "1 to 4096 are stored"),
        ({"item_id": "x", "kind": "a" * 5000}, "'kind' has 5000 characters"),
    ],
)
def test_a_bad_item_is_rejected_with_its_reason_and_the_others_are_accepted(
    replica: Replica, item: Any, reason: str
) -> None:
    answer = replica.client.put("/v1/items", content=json.dumps([{"item_id": "tea2", "price": 3}, item]), headers=JSON)

    assert answer.status_code == 200
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (1, 1)
    assert reason in answer.json()["results"][1]["reason"]
    alone = replica.client.put("/v1/items", content=json.dumps(item), headers=JSON)
    assert alone.status_code == 422
    assert reason in alone.json()["detail"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "invalid JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"item_id": "\\ud800"}', "half of a surrogate pair"),
        (b'{"item_id": "x", "price": NaN}', "NaN is not JSON"),
        (b'{"item_id": "x", "price": 1, "price": 2}', "the key 'price' is repeated"),
        (b'{"item_id": "x", "price": 1' + b"0" * 10_000 + b"}", "invalid JSON"),
        (json.dumps([{"item_id": "x"}] * 1001).encode(), "send at most 1000"),
        (b'{"items": [], "more": 1}', "'more'"),
        (b'{"items": [], "new_attributes": [1]}', "new_attributes is not a list of names"),
    ],
)
def test_a_bad_body_is_a_422(replica: Replica, body: bytes, detail: str) -> None:
    response = replica.client.put("/v1/items", content=body, headers=JSON)

    assert response.status_code == 422
    assert detail in response.json()["detail"]


def test_a_damaged_store_leaves_the_prepared_catalogue_and_is_said(shop: Shop) -> None:
    shop.items.write_bytes(b"no database at all " * 100)

    replica = shop.replica()

    assert "tea2" in replica.recommended("tea1")
    assert "move it away" in replica.client.get("/v1/models").json()["live_items"]["degraded"]
    refused = replica.client.put("/v1/items", json={"item_id": "tea2", "price": 3})
    assert refused.status_code == 503
    assert "live items cannot be stored" in refused.json()["detail"]
    assert str(shop.items) not in refused.text


def test_a_store_that_is_damaged_while_it_is_served_leaves_the_last_items(shop: Shop, replica: Replica) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea"})
    other = shop.items.with_name("other")
    other.write_bytes(b"no database at all " * 100)

    other.replace(shop.items)
    replica.live.refresh()

    assert "tea-new" in replica.recommended("tea1")
    assert "is damaged" in replica.client.get("/v1/models").json()["live_items"]["degraded"]


def test_the_golden_request_of_a_deployment_is_answered_without_live_items(replica: Replica) -> None:
    replica.put({"item_id": "tea-new", "kind": "tea"})

    response = replica.client.post(
        "/v1/recommendations", json={"history": ["tea1"], "count": 20}, headers={"Shopkeeper-Prepared-Only": "1"}
    )

    assert "tea-new" not in {item["item_id"] for item in response.json()["items"]}


def test_a_deployment_without_live_items_refuses_them_and_says_why(shop: Shop) -> None:
    replica = shop.replica(items=None)

    response = replica.client.put("/v1/items", json={"item_id": "tea2", "price": 3})

    assert response.status_code == 501
    assert "several hosts" in response.json()["detail"]
    assert "tea2" in replica.recommended("tea1")


def test_requests_in_one_batch_keep_the_catalogue_that_each_began_with(shop: Shop, replica: Replica) -> None:
    answerer = replica.service.current.answerers["/v1/recommendations"]  # type: ignore[union-attr]
    request = FAMILY.endpoints[0].Request(history=["tea1"], count=20)
    before = answerer.encode(request)
    replica.put({"item_id": "tea-new", "kind": "tea"})
    after = answerer.encode(request)

    first, second, third = answerer.predict([*before, *after, *before])

    assert shop.schema.num_items + 1 not in first.items
    assert shop.schema.num_items + 1 in second.items
    assert first.items == third.items


def _hook() -> Any:
    return FAMILY.items
