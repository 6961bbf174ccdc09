"""DELETE /v1/users/{id}: from its answer on the user is unknown at every replica, and their events are refused."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from models import FAMILIES
from models.erasure.receipts import read_receipts
from models.erasure.tombstones import Tombstones
from models.events.sqlite import SqliteEvents
from models.events.store import open_events
from models.family import Family
from models.features import FeatureStore, create_live_store, live
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit import toy_extras
from tests.kit.bundles import write_bundle
from tests.serve.test_service import assert_problem, shop_bundle

PATH = "/v1/recommendations"
USER = "anna.schmidt"


class Shop:
    """Two replicas of a store, which share nothing but its files."""

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root, self._bundle = root, bundle
        self.features = root / "recommender" / "features.sqlite"
        with closing(FeatureStore(self.features)) as store:
            histories = [(USER, ["item-1", "item-2"]), ("bert", ["item-3"]), ("a/b ä", ["item-4"]), ("7", ["item-5"])]
            store.replace("history", histories)
            store.leave_one_file()
        open_events(str(root / "events.sqlite")).close()
        self.one, self.two = self.replica(), self.replica()

    def replica(self, **settings: Any) -> TestClient:
        service = Service("recommender")
        paths = {"feature_store": self.features, "erased": self.root / "erased.sqlite"}
        given = {"bundle": self._bundle, "events": str(self.root / "events.sqlite"), **paths, **settings}
        asyncio.run(service.load(Settings(version="1", **given)))
        return TestClient(make_app(service), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop_bundle(tmp_path_factory.mktemp("bundle") / "v1")


@pytest.fixture
def shop(tmp_path: Path, bundle: Path) -> Shop:
    return Shop(tmp_path, bundle)


def source(client: TestClient, **request: Any) -> str:
    response = client.post(PATH, json=request)
    assert response.status_code == 200, response.text
    return str(response.json()["source"])


def test_an_erased_user_is_unknown_at_every_replica_from_the_answer_on(shop: Shop) -> None:
    assert {source(each, user_id=USER) for each in (shop.one, shop.two)} == {"personal"}

    response = shop.one.delete(f"/v1/users/{USER}")

    assert response.status_code == 200
    assert response.json()["status"] == "erased"
    assert {source(each, user_id=USER) for each in (shop.one, shop.two)} == {"popular"}
    assert source(shop.two, user_id="bert") == "personal"
    assert source(shop.two, user_id=USER, history=["item-9"]) == "personal", "the history that a request brings is used"


def test_the_files_of_the_store_do_not_have_the_id_any_more(shop: Shop) -> None:
    shop.one.post("/v1/events", json={"user_id": USER, "item_id": "item-3"})
    assert USER.encode() in b"".join(path.read_bytes() for path in shop.root.rglob("*.sqlite*"))

    shop.two.delete(f"/v1/users/{USER}")

    for path in shop.root.rglob("*"):
        assert not path.is_file() or USER.encode() not in path.read_bytes(), path


def test_stale_features_of_an_erased_user_are_not_read(shop: Shop) -> None:
    Tombstones(shop.root / "erased.sqlite").add([USER])

    assert source(shop.one, user_id=USER) == "popular"


def test_events_of_an_erased_user_are_refused_until_a_new_consent(shop: Shop) -> None:
    event = {"user_id": USER, "item_id": "item-3"}
    assert shop.one.post("/v1/events", json=event).status_code == 200
    shop.one.delete(f"/v1/users/{USER}")

    refused = shop.two.post("/v1/events", json=[event, {"user_id": "bert", "item_id": "item-4"}])

    assert [each["outcome"] for each in refused.json()["results"]] == ["rejected", "accepted"]
    assert "erased" in refused.json()["results"][0]["reason"]
    assert shop.two.post("/v1/events", json=event).status_code == 422
    with closing(open_events(str(shop.root / "events.sqlite"))) as store:
        assert store.of(user_id=USER, session_id=None, after_seq=0) == []
    Tombstones(shop.root / "erased.sqlite").lift(USER)
    assert shop.one.post("/v1/events", json=event).json()["accepted"] == 1
    assert source(shop.two, user_id=USER) == "personal"


def test_an_event_that_slipped_in_while_its_user_was_erased_is_not_used(shop: Shop) -> None:
    shop.one.post("/v1/events", json={"user_id": USER, "item_id": "item-3"})

    Tombstones(shop.root / "erased.sqlite").add([USER])

    assert source(shop.two, user_id=USER) == "popular"


def test_an_anonymous_session_is_erased_by_its_name(shop: Shop) -> None:
    event = {"session_id": "visit", "item_id": "item-3"}
    shop.one.post("/v1/events", json=event)
    assert source(shop.two, session_id="visit") == "personal"

    shop.one.delete("/v1/users/session:visit")

    assert shop.two.post("/v1/events", json=event).status_code == 422


@pytest.mark.parametrize("user_id", ["a/b ä", "7"])
def test_any_id_can_be_sent_in_the_path(shop: Shop, user_id: str) -> None:
    assert source(shop.two, user_id=user_id) == "personal"

    shop.one.delete(f"/v1/users/{quote(user_id, safe='')}")

    assert source(shop.two, user_id=user_id) == "popular"


def test_an_id_of_another_form_is_the_same_user(shop: Shop) -> None:
    shop.one.delete("/v1/users/7.0")

    assert source(shop.two, user_id=7) == "popular"


@pytest.mark.parametrize("path", ["/v1/users/", "/v1/users/%20", "/v1/users/a%00b", "/v1/users/" + "x" * 257])
def test_an_id_that_nobody_can_have_is_422_and_erases_nobody(shop: Shop, path: str) -> None:
    assert_problem(shop.one.delete(path), 422)

    assert not (shop.root / "erased.sqlite").exists()


def test_an_unknown_user_gets_a_receipt_and_a_tombstone(shop: Shop) -> None:
    answer = shop.one.delete("/v1/users/nobody").json()

    assert (answer["status"], answer["traces"]) == ("erased", [])
    assert Tombstones(shop.root / "erased.sqlite").has("nobody")


def test_the_receipt_in_the_store_names_the_user_by_a_hash(shop: Shop) -> None:
    answer = shop.one.delete(f"/v1/users/{USER}").json()

    (receipt,) = read_receipts(shop.root)
    path = shop.root / "erasures" / f"{answer['receipt_id']}.json"
    assert receipt.user == Tombstones(shop.root / "erased.sqlite").digest(USER)
    assert json.loads(path.read_text())["status"] == "erased"
    assert path.stat().st_mode & 0o077 == 0
    assert [(trace.what, trace.state, trace.count) for trace in receipt.traces] == [("feature store", "deleted", 1)]


def test_prepared_data_are_pending_and_answered_as_202(shop: Shop) -> None:
    data = shop.root / "recommender" / "data" / "0123456789abcdef"
    data.mkdir(parents=True)
    (data / "schema.json").write_text("{}")

    response = shop.one.delete(f"/v1/users/{USER}")

    assert (response.status_code, response.json()["status"]) == (202, "pending")
    assert response.json()["traces"][-1] == {
        "what": "prepared data",
        "where": "recommender/data/0123456789abcdef",
        "state": "pending",
        "remedy": "shopkeeper erase --pending",
    }


def test_erasing_twice_says_that_the_user_was_erased(shop: Shop) -> None:
    shop.one.delete(f"/v1/users/{USER}")
    shop.two.delete(f"/v1/users/{USER}")

    assert [receipt.is_new for receipt in read_receipts(shop.root)] == [True, False]


def test_a_deployment_of_an_earlier_release_refuses_to_erase(shop: Shop) -> None:
    problem = assert_problem(shop.replica(erased=None).delete(f"/v1/users/{USER}"), 503)

    assert "deploy" in problem["detail"]


def test_unreadable_tombstones_make_everybody_unknown_and_nobody_is_said_to_be_erased(shop: Shop) -> None:
    shop.one.delete("/v1/users/bert")
    (shop.root / "erased.sqlite").write_bytes(b"damaged" * 100)

    assert source(shop.two, user_id=USER) == "popular"
    assert_problem(shop.two.delete(f"/v1/users/{USER}"), 503)
    assert_problem(shop.two.post("/v1/events", json={"user_id": "carl", "item_id": "item-3"}), 503)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_cannot_be_written_is_503(shop: Shop) -> None:
    shop.root.chmod(0o500)
    try:
        assert_problem(shop.one.delete(f"/v1/users/{USER}"), 503)
    finally:
        shop.root.chmod(0o700)


def test_a_request_of_an_erased_user_writes_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family: Family = toy_extras.FAMILY
    monkeypatch.setitem(FAMILIES, "toy", family)
    schema = family.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
    network = family.build(family.Config(), schema)
    directory = write_bundle(family, tmp_path / "v1", network=network, schema=schema, config=family.Config())
    create_live_store(tmp_path / "toy" / "live-features.sqlite")
    service = Service("toy")
    live_store = tmp_path / "toy" / "live-features.sqlite"
    paths: dict[str, Any] = {"live_feature_store": live_store, "erased": tmp_path / "erased.sqlite"}
    asyncio.run(service.load(Settings(version="1", bundle=directory, **paths)))
    client = TestClient(make_app(service), raise_server_exceptions=False)
    visit: dict[str, Any] = {"visitor_id": USER, "note": "hello"}
    assert [client.post("/v1/visits", json=visit).json()["number"] for _ in range(2)] == [1, 2]

    assert client.delete(f"/v1/users/{USER}").json()["traces"][0]["count"] == 1

    assert [client.post("/v1/visits", json=visit).json()["number"] for _ in range(2)] == [1, 1]
    with closing(FeatureStore(live_store, read_only=True)) as store:
        found = store.read(live(family.features), toy_extras.Visit(**visit))
    assert found.values == {"notes": {}}


def test_a_replica_with_damaged_tombstones_starts_degraded_and_knows_nobody(shop: Shop) -> None:
    shop.one.delete(f"/v1/users/{USER}")
    tombstones = shop.root / "erased.sqlite"
    whole = tombstones.read_bytes()
    for suffix in ("-wal", "-shm"):
        tombstones.with_name(tombstones.name + suffix).unlink(missing_ok=True)
    tombstones.write_bytes(b"not a database" * 100)

    replica = shop.replica()

    assert source(replica, user_id="bert") == "popular"
    assert "erased.sqlite" in replica.get("/v1/models").json()["degraded"]
    assert_problem(replica.post("/v1/events", json={"user_id": "bert", "item_id": "item-3"}), 503)
    tombstones.unlink()
    tombstones.write_bytes(whole)
    assert source(replica, user_id="bert") == "personal"
    assert "degraded" not in replica.get("/v1/models").json() or not replica.get("/v1/models").json()["degraded"]


def test_a_rejected_reload_leaves_the_event_store_that_an_erasure_empties(shop: Shop, bundle: Path) -> None:
    events = str(shop.root / "events.sqlite")
    service = Service("recommender")
    stores = {"feature_store": shop.features, "erased": shop.root / "erased.sqlite", "bundle": bundle}
    broken = {**stores, "feature_store": shop.root / "missing.sqlite", "events": str(shop.root / "other.sqlite")}

    async def reload() -> None:
        await service.load(Settings.model_validate({"version": "1", **stores, "events": events}))
        await service.load(Settings.model_validate({"version": "2", **broken}))

    asyncio.run(reload())
    assert service.info().last_failed_reload is not None
    client = TestClient(make_app(service), raise_server_exceptions=False)
    sent = {"user_id": USER, "item_id": "item-3", "event_type": "view"}
    assert client.post("/v1/events", json=sent).json()["accepted"] == 1

    assert client.delete(f"/v1/users/{USER}").status_code in (200, 202)

    with closing(open_events(events)) as store:
        assert store.of(user_id=USER, session_id=None, after_seq=0) == []


def test_a_session_without_a_login_is_erased_by_its_own_id(shop: Shop) -> None:
    event = {"session_id": "s-9", "item_id": "item-3"}
    shop.one.post("/v1/events", json=event)
    assert source(shop.two, session_id="s-9") == "personal"

    erased = shop.one.delete("/v1/users/session:s-9").json()

    assert [(each["what"], each["count"]) for each in erased["traces"] if each["state"] == "deleted"] == [("events", 1)]
    assert source(shop.two, session_id="s-9") == "popular"
    assert shop.two.post("/v1/events", json=event).status_code == 422


def test_events_that_are_stored_while_their_user_is_erased_do_not_stay(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SqliteEvents.append

    def overtaken(store: SqliteEvents, events: Any) -> list[bool]:
        Tombstones(shop.root / "erased.sqlite").add([USER])  # an erasure that finds no event yet
        return append(store, events)

    monkeypatch.setattr(SqliteEvents, "append", overtaken)
    answer = shop.one.post("/v1/events", json=[{"user_id": USER, "item_id": "i"}, {"user_id": "bert", "item_id": "i"}])

    assert [each["outcome"] for each in answer.json()["results"]] == ["rejected", "accepted"]
    with closing(open_events(str(shop.root / "events.sqlite"))) as store:
        assert [each.user_id for block in store.scan(after_seq=0, until_seq=9) for each in block] == ["bert"]


def test_an_id_whose_bytes_are_not_utf8_is_refused(shop: Shop) -> None:
    response = shop.one.delete("/v1/users/J%FCrgen")

    assert_problem(response, 422)
    assert "percent-encode" in response.json()["detail"]
    assert not (shop.root / "erased.sqlite").exists()


def test_missing_tombstones_make_everybody_unknown_where_somebody_was_erased(shop: Shop) -> None:
    shop.one.delete(f"/v1/users/{USER}")
    (shop.root / "erased.sqlite").rename(shop.root / "aside")

    assert source(shop.two, user_id="bert") == "popular"
    assert_problem(shop.two.post("/v1/events", json={"user_id": USER, "item_id": "item-3"}), 503)
    assert_problem(shop.two.delete("/v1/users/bert"), 503)
    assert "erased.sqlite" in shop.two.get("/v1/models").json()["degraded"]
    (shop.root / "aside").rename(shop.root / "erased.sqlite")
    assert source(shop.two, user_id="bert") == "personal"
