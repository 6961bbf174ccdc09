"""Events over HTTP: durable before they are acknowledged, partly accepted, and in the next answer of every replica."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from models import FAMILIES
from models.errors import EventsUnavailable
from models.events.store import open_events
from models.family import Family
from models.features import FeatureStore
from serve.metrics import EVENT_STORE_ERRORS, EVENTS
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.counts import counted
from tests.serve.test_service import assert_problem, shop_bundle


class Shop:
    """Two replicas of a shop in one process, which share nothing but their files."""

    def __init__(self, directory: Path, bundle: Path) -> None:
        self.path = directory / "events.sqlite"
        self.services: list[Service] = []
        open_events(str(self.path)).close()
        self.features = directory / "features.sqlite"
        with_history = FeatureStore(self.features)
        with_history.replace("history", [("ann", ["item-1", "item-2"]), ("session:known", ["item-7"])])
        with_history.close()
        self._bundle = bundle
        self.one, self.two = self.replica(), self.replica()

    def replica(self, **settings: Any) -> TestClient:
        service = Service("recommender")
        self.services.append(service)
        given = {"bundle": self._bundle, "feature_store": self.features, "events": str(self.path), **settings}
        asyncio.run(service.load(Settings(version="1", **given)))
        return TestClient(make_app(service), raise_server_exceptions=False)

    @property
    def counts(self) -> dict[str, float]:
        """Events by outcome."""
        return counted(EVENTS, *self.services)

    @property
    def num_errors(self) -> float:
        return counted(EVENT_STORE_ERRORS, *self.services).get("", 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop_bundle(tmp_path_factory.mktemp("bundle") / "v1")


@pytest.fixture
def shop(tmp_path: Path, bundle: Path) -> Shop:
    return Shop(tmp_path, bundle)


def recommended(client: TestClient, **request: Any) -> tuple[str, set[str]]:
    """Where the answer comes from, and the seen items that it leaves out."""
    response = client.post("/v1/recommendations", json={"count": 20, **request})
    assert response.status_code == 200, response.text
    content = response.json()
    every = {f"item-{number}" for number in range(20)}
    return content["source"], every - {each["item_id"] for each in content["items"]}


def view(item: str, **fields: Any) -> dict[str, Any]:
    return {"item_id": item, "event_type": "view", **fields}


def test_the_next_answer_of_every_replica_uses_an_acknowledged_event(shop: Shop) -> None:
    assert recommended(shop.two, user_id="ann") == ("personal", {"item-1", "item-2"})
    assert recommended(shop.two, user_id="new") == ("popular", set())

    for user in ("ann", "new"):
        response = shop.one.post("/v1/events", json=view("item-3", user_id=user))
        assert response.status_code == 200
        assert (response.json()["accepted"], response.json()["results"][0]["item_known"]) == (1, True)

    for replica in (shop.one, shop.two):
        assert recommended(replica, user_id="ann") == ("personal", {"item-1", "item-2", "item-3"})
        assert recommended(replica, user_id="new") == ("personal", {"item-3"})
        assert recommended(replica, user_id="ann", history=["item-9"]) == ("personal", {"item-9"})
        assert recommended(replica, user_id="new", exclude_seen=False) == ("personal", set())


def test_an_event_is_in_the_store_with_its_recommendation_when_it_is_acknowledged(shop: Shop) -> None:
    answer = shop.one.post("/v1/recommendations", json={"user_id": "ann"}).json()
    sent = view("item-3", user_id="ann", recommendation_id=answer["recommendation_id"], price=2.5, quantity=2)
    result = shop.one.post("/v1/events", json=sent).json()["results"][0]

    (found,) = open_events(str(shop.path)).of(user_id="ann", session_id=None, after_seq=0)

    assert found.event_id == result["event_id"]
    assert found.recommendation_id == answer["recommendation_id"]
    assert (found.price, found.quantity, found.event_type) == (2.5, 2.0, "view")
    assert abs(found.timestamp_s - time.time()) < 60


def test_good_events_are_accepted_next_to_bad_ones_with_a_reason(shop: Shop) -> None:
    sent = [
        view("item-3", user_id="ann", event_id="e1"),
        view("item-4"),
        view("item-3", user_id="ann", event_id="e1"),
        view("never-sold", user_id="ann", event_id="e2"),
        view("item-5", user_id="ann", event_id="e3", timestamp="soon"),
    ]

    response = shop.one.post("/v1/events", json={"events": sent})

    assert response.status_code == 200
    content = response.json()
    assert {name: content[name] for name in ("accepted", "duplicate", "rejected")} == shop.counts
    assert [each["outcome"] for each in content["results"]] == [
        "accepted",
        "rejected",
        "duplicate",
        "accepted",
        "rejected",
    ]
    assert [each.get("item_known") for each in content["results"]] == [True, None, True, False, None]
    assert content["results"][1]["reason"] == "user_id: is missing, and so is session_id; send at least one of them"
    assert content["results"][4]["event_id"] == "e3"
    assert recommended(shop.two, user_id="ann")[1] == {"item-1", "item-2", "item-3"}


def test_a_repeated_request_is_acknowledged_and_changes_nothing(shop: Shop) -> None:
    sent = [view(f"item-{number}", user_id="ann", event_id=f"e{number}") for number in (3, 4)]
    shop.one.post("/v1/events", json=sent)

    response = shop.two.post("/v1/events", json=sent)

    assert response.status_code == 200
    assert (response.json()["accepted"], response.json()["duplicate"]) == (0, 2)
    assert open_events(str(shop.path)).last_seq() == 2


def test_a_request_whose_events_are_all_rejected_is_422(shop: Shop) -> None:
    content = assert_problem(shop.one.post("/v1/events", json=[view("item-1"), 5]), 422)

    assert content["rejected"] == 2
    assert [each["pointer"] for each in content["errors"]] == ["#/0", "#/1"]
    assert "all 2 events were rejected; the first one: user_id: is missing" in content["detail"]
    one = assert_problem(shop.one.post("/v1/events", json=view("a\0b", user_id="ann")), 422)
    assert "the event was rejected: item_id: has control characters" in one["detail"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", 422),
        (b"{", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"9" * 100_000, "application/json", 422),
        (b'{"user_id": "\\ud800"}', "application/json", 422),
        (b"{}", "text/plain", 415),
    ],
)
def test_a_body_that_is_no_list_of_events_is_refused(shop: Shop, body: bytes, kind: str, status: int) -> None:
    assert_problem(shop.one.post("/v1/events", content=body, headers={"Content-Type": kind}), status)


def test_events_of_a_session_count_for_its_visitor_and_for_the_user_who_logs_in(shop: Shop) -> None:
    shop.one.post("/v1/events", json=view("item-5", session_id="s1"))
    assert recommended(shop.two, session_id="s1") == ("personal", {"item-5"})
    assert recommended(shop.two, session_id="s2") == ("popular", set())
    assert recommended(shop.two, session_id="known") == ("personal", {"item-7"})
    assert recommended(shop.two, user_id="bob", session_id="s1") == ("personal", {"item-5"})

    shop.one.post("/v1/events", json=view("item-6", session_id="s1", user_id="ann"))
    shop.one.post("/v1/events", json=view("item-8", session_id="s1"))

    whole = {"item-1", "item-2", "item-5", "item-6", "item-8"}
    assert recommended(shop.two, user_id="ann") == ("personal", whole)
    assert recommended(shop.two, session_id="s1") == ("personal", whole), "the visitor is the user who logged in"
    assert recommended(shop.two, user_id="bob", session_id="s1") == ("popular", set()), "which is nobody else"


def test_only_events_above_the_watermark_of_the_same_store_are_merged(shop: Shop) -> None:
    shop.one.post("/v1/events", json=[view("item-3", user_id="ann"), view("item-4", user_id="ann")])
    store_id = open_events(str(shop.path)).store_id

    for until, new in (({store_id: 1}, {"item-4"}), ({store_id: 2}, set()), ({"other": 2}, {"item-3", "item-4"})):
        features = FeatureStore(shop.features)
        features.replace("events_until", [("", until)])
        features.close()
        assert recommended(shop.two, user_id="ann")[1] == {"item-1", "item-2"} | new


def test_a_late_event_takes_its_place_by_time(shop: Shop) -> None:
    features = FeatureStore(shop.features)
    features.replace("history_times", [("ann", [1_700_000_000, 1000])])
    features.close()
    shop.one.post("/v1/events", json=view("item-9", user_id="ann", timestamp=1_700_000_500))

    content = shop.two.post("/v1/recommendations", json={"user_id": "ann", "count": 1}).json()

    # Each item is followed by the next one of the chain; the last event counts most.
    assert content["items"][0]["item_id"] == "item-3"


@pytest.mark.parametrize("fault", ["deleted", "damaged"])
def test_a_broken_store_acknowledges_nothing_and_answers_go_on_without_it(shop: Shop, fault: str) -> None:
    shop.one.post("/v1/events", json=view("item-3", user_id="ann"))
    for path in shop.path.parent.glob("events.sqlite*"):
        path.unlink()
    if fault == "damaged":
        shop.path.write_bytes(b"x" * 4096)

    response = shop.one.post("/v1/events", json=view("item-4", user_id="ann"))

    content = assert_problem(response, 503)
    assert "no event was stored" in content["detail"]
    assert int(response.headers["Retry-After"]) > 0
    assert recommended(shop.one, user_id="ann") == ("personal", {"item-1", "item-2"})
    assert shop.num_errors == 2


def test_a_store_that_hangs_delays_one_answer_only(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.events.LOOK_UP_TIMEOUT_S", 0.05)
    monkeypatch.setattr("serve.events.PAUSE_S", 1000.0)
    monkeypatch.setattr("models.events.sqlite.SqliteEvents.of", lambda *args, **asked: time.sleep(0.5))

    for _ in range(3):
        assert recommended(shop.one, user_id="ann") == ("personal", {"item-1", "item-2"})

    assert (shop.counts, shop.num_errors) == ({}, 1)


def test_a_deployment_without_an_event_store_says_so(shop: Shop) -> None:
    client = shop.replica(events=None)

    content = assert_problem(client.post("/v1/events", json=view("item-3", user_id="ann")), 503)

    assert "has no event store; deploy" in content["detail"]
    assert recommended(client, user_id="ann", session_id="known")[1] == {"item-1", "item-2"}
    assert recommended(client, session_id="known") == ("personal", {"item-7"})


def test_the_store_is_kept_when_another_model_is_loaded(shop: Shop, bundle: Path) -> None:
    service = Service("recommender")
    settings: dict[str, Any] = {"bundle": bundle, "feature_store": shop.features, "events": str(shop.path)}
    asyncio.run(service.load(Settings(version="1", **settings)))
    client = TestClient(make_app(service), raise_server_exceptions=False)
    client.post("/v1/events", json=view("item-3", user_id="ann"))

    asyncio.run(service.load(Settings(version="2", **settings)))

    assert recommended(client, user_id="ann")[1] == {"item-1", "item-2", "item-3"}
    assert client.post("/v1/events", json=view("item-4", user_id="ann")).status_code == 200


def test_openapi_describes_the_events(shop: Shop) -> None:
    described = shop.one.get("/openapi.json").json()["paths"]["/v1/events"]["post"]

    (content,) = described["requestBody"]["content"].values()
    one, many, wrapped = content["schema"]["anyOf"]
    assert set(one["properties"]) == {
        "event_id",
        "user_id",
        "session_id",
        "item_id",
        "event_type",
        "timestamp",
        "price",
        "quantity",
        "recommendation_id",
    }
    assert many["maxItems"] == 1000
    assert wrapped["required"] == ["events"]
    assert {"200", "415", "422", "503"} <= set(described["responses"])
    for example in content["schema"]["examples"]:
        assert shop.one.post("/v1/events", json=example).status_code == 200 or "s after the server" in str(example)


def test_families_without_the_hook_have_no_route(toy: Family, toy_bundle: Callable[..., Path]) -> None:
    service = Service("toy")
    asyncio.run(service.load(Settings(version="1", bundle=toy_bundle("v1"))))

    assert_problem(TestClient(make_app(service)).post("/v1/events", json={}), 404)
    assert FAMILIES["image"].events is None


def test_no_event_is_acknowledged_whose_commit_fails(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.one.post("/v1/events", json=view("item-3", user_id="ann"))

    def full(*args: Any) -> None:
        raise EventsUnavailable("events.sqlite cannot be written: the disk is full", retry_after_s=30)

    monkeypatch.setattr("models.events.sqlite.insert", full)
    response = shop.one.post("/v1/events", json=view("item-4", user_id="ann"))
    monkeypatch.undo()

    assert_problem(response, 503)
    assert response.headers["Retry-After"] == "30"
    assert recommended(shop.one, user_id="ann")[1] == {"item-1", "item-2", "item-3"}


def test_a_model_that_is_swapped_in_from_memory_uses_the_events(shop: Shop, bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other")
    stores = {"feature_store": shop.features, "events": str(shop.path)}
    new = Settings.model_validate(
        {"version": "2", "bundle": other, **stores, "standby": {"version": "1", "bundle": bundle}}
    )
    former = Settings.model_validate({"version": "1", "bundle": bundle, **stores})
    service = Service("recommender")

    async def roll_back() -> None:
        await service.load(new)
        await service._standby.finish_loading()
        assert service.info().standby == "1"
        await service.load(former)

    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        assert client.portal is not None
        client.portal.call(roll_back)
        assert client.post("/v1/events", json=view("item-3", user_id="ann")).json()["accepted"] == 1
        assert client.get("/v1/models").json()["version"] == "1"
        assert recommended(client, user_id="ann") == ("personal", {"item-1", "item-2", "item-3"})
    assert recommended(shop.two, user_id="ann")[1] == {"item-1", "item-2", "item-3"}
    assert counted(EVENTS, service) == {"accepted": 1}
