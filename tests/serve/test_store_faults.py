"""A feature store that cannot be read: who is answered how, what health says, and recovery without a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from models import FAMILIES
from models.family import Family
from models.features import FeatureStore, create_live_store
from serve import watched_store
from serve.metrics import FEATURE_STORE_ERRORS
from serve.service import Service, Settings
from tests.kit import toy_extras
from tests.kit.counts import counted
from tests.kit.toy_extras import VISITS
from tests.serve.test_service import assert_problem, client_of, loaded, shop_bundle, write_features

PATH = "/v1/recommendations"
ANN = {"user_id": "ann", "count": 3}
FAULTS = ("deleted", "truncated", "overwritten", "replaced", "emptied", "locked", "damaged value")


class Shop:
    """A recommender whose feature store breaks."""

    def __init__(self, directory: Path, model: Path, *, loads: bool = True) -> None:
        self.path = directory / "features.sqlite"
        self.model = model
        self.write()
        self.service = Service("recommender")
        self.client = client_of(self.service)
        if loads:
            self.load()

    def load(self) -> None:
        asyncio.run(self.service.load(Settings(version="1", bundle=self.model, feature_store=self.path)))

    def write(self) -> None:
        """As `deploy` does: a new file in the place of the old one."""
        new = self.path.with_name("new.sqlite")
        with closing(FeatureStore(new)) as store:
            store.replace("history", [("ann", ["item-1", "item-2"])])
            store.replace("history-of-others", [(f"user-{number}", ["item-1"] * 20) for number in range(500)])
            store.replace("items_with", [("colour=red", ["item-3"])])
            store.leave_one_file()
        new.replace(self.path)

    @contextmanager
    def broken(self, fault: str) -> Iterator[None]:
        """While the store is broken; it stays so unless it was locked."""
        content = self.path.read_bytes()
        match fault:
            case "deleted":
                self.path.unlink()
            case "truncated":
                self.path.write_bytes(content[: len(content) // 2])
            case "overwritten":
                self.path.write_bytes(b"not a database" * 1000)
            case "replaced":
                other = self.path.with_name("other")
                other.write_bytes(b"not a database" * 1000)
                other.replace(self.path)
            case "emptied":
                self.path.write_bytes(b"")
            case "damaged value":
                with closing(sqlite3.connect(self.path)) as connection, connection:
                    connection.execute("UPDATE feature SET value = '[\"item-' WHERE key = 'ann'")
            case "locked":
                with closing(sqlite3.connect(self.path)) as connection:
                    connection.execute("BEGIN EXCLUSIVE")
                    yield
                return
        yield

    def source(self) -> str:
        """The source of ann's recommendations."""
        response = self.client.post(PATH, json=ANN)
        assert response.status_code == 200, response.text
        assert len(response.json()["items"]) == 3
        return str(response.json()["source"])

    @property
    def num_errors(self) -> float:
        return counted(FEATURE_STORE_ERRORS, self.service).get("", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop_bundle(tmp_path_factory.mktemp("model") / "v1")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_store, "RETRY_S", 0.0)
    monkeypatch.setattr("serve.stored_features.RETRY_S", 0.0)
    monkeypatch.setattr("serve.stored_features.READ_TIMEOUT_S", 0.05)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", FAULTS)
def test_known_users_get_the_fallback_health_sees_it_and_a_repaired_store_is_used_again(
    tmp_path: Path, model: Path, fault: str
) -> None:
    shop = Shop(tmp_path, model)
    assert shop.source() == "personal"
    is_still_open = fault in ("deleted", "replaced")

    with shop.broken(fault):
        sources = {shop.source() for _ in range(3)}
        health, info = shop.client.get("/healthz"), shop.client.get("/v1/models").json()

    assert sources == {"personal" if is_still_open else "fallback"}
    assert shop.num_errors == (0 if is_still_open else 3)
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert "shopkeeper deploy" in health.json()["detail"]
    assert "features.sqlite" in info["degraded"]
    if fault != "locked":
        shop.write()
    assert shop.source() == "personal"
    assert shop.client.get("/healthz").json() == {"status": "ok"}
    assert shop.client.get("/v1/models").json()["degraded"] is None


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", ["deleted", "overwritten"])
def test_health_sees_a_broken_store_before_a_request_does(tmp_path: Path, model: Path, fault: str) -> None:
    shop = Shop(tmp_path, model)
    assert shop.client.get("/healthz").json() == {"status": "ok"}

    with shop.broken(fault):
        assert shop.client.get("/healthz").json()["status"] == "degraded"


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", ["deleted", "overwritten", "emptied"])
def test_a_replica_starts_while_the_store_is_broken(tmp_path: Path, model: Path, fault: str) -> None:
    shop = Shop(tmp_path, model, loads=False)
    with shop.broken(fault):
        shop.load()

    assert shop.source() == "fallback"
    assert shop.client.get("/healthz").json()["status"] == "degraded"
    shop.write()
    assert shop.source() == "personal"


@pytest.mark.usefixtures("no_pauses")
def test_what_needs_no_store_is_answered_as_usual_and_a_filter_is_not_ignored(tmp_path: Path, model: Path) -> None:
    shop = Shop(tmp_path, model)
    with shop.broken("overwritten"):
        own = shop.client.post(PATH, json={"history": ["item-1"]})
        anonymous = shop.client.post(PATH, json={})
        filtered = shop.client.post(PATH, json={**ANN, "filter": {"colour": "red"}})

    assert (own.json()["source"], anonymous.json()["source"]) == ("personal", "popular")
    assert_problem(filtered, 503)
    assert int(filtered.headers["retry-after"]) > 0
    assert str(tmp_path) not in filtered.text


@pytest.mark.usefixtures("no_pauses")
def test_a_reload_is_refused_while_its_store_is_broken(tmp_path: Path, model: Path) -> None:
    shop = Shop(tmp_path, model)

    gone = Settings(version="2", bundle=model, feature_store=tmp_path / "gone.sqlite")
    asyncio.run(shop.service.load(gone))

    failed = shop.service.info().last_failed_reload
    assert (shop.service.info().version, failed and failed.version) == ("1", "2")
    assert failed is not None and "gone.sqlite; deploy again" in failed.error


def test_only_one_request_waits_for_a_locked_store(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.stored_features.READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(watched_store, "RETRY_S", 600.0)
    shop = Shop(tmp_path, model)
    num_fetches = 0
    fetch = FeatureStore.fetch

    def counted(store: FeatureStore, keys: Any) -> Any:
        nonlocal num_fetches
        num_fetches += 1
        return fetch(store, keys)

    with shop.broken("locked"):
        shop.source()
        monkeypatch.setattr(FeatureStore, "fetch", counted)
        assert {shop.source() for _ in range(5)} == {"fallback"}

    assert num_fetches == 0


# A family without a fallback, and one that writes


@pytest.mark.usefixtures("no_pauses")
def test_a_family_without_a_fallback_answers_503_with_retry_after(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "features.sqlite"
    write_features(path, {"ann": [3.0, 3.0]})
    client = client_of(loaded("toy", version="1", bundle=toy_bundle("v1"), feature_store=path))
    path.write_bytes(b"not a database" * 100)

    response = client.post("/v1/colours", json={"visitor_id": "ann"})

    assert_problem(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert client.post("/v1/colours", json={"numbers": [1, 2]}).status_code == 200


def writing_service(tmp_path: Path, toy_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setitem(FAMILIES, "toy", toy_extras.FAMILY)
    create_live_store(tmp_path / "live.sqlite")
    service = Service("toy")
    asyncio.run(
        service.load(Settings(version="1", bundle=toy_bundle("v1"), live_feature_store=tmp_path / "live.sqlite"))
    )
    return service


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("fault", ["deleted", "overwritten", "locked"])
def test_a_broken_live_store_is_a_503_with_retry_after_and_is_used_again_when_repaired(
    toy_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("serve.stored_features.BUSY_TIMEOUT_S", 0.05)
    service, path = writing_service(tmp_path, toy_bundle, monkeypatch), tmp_path / "live.sqlite"
    client = client_of(service)
    assert client.post(VISITS.path, json={"visitor_id": "ann"}).json() == {"number": 1}
    with closing(sqlite3.connect(path)) as connection:
        match fault:
            case "deleted":
                path.unlink()
            case "overwritten":
                path.write_bytes(b"not a database" * 1000)
            case "locked":
                connection.execute("BEGIN EXCLUSIVE")

        response = client.post(VISITS.path, json={"visitor_id": "ann"})
        assert_problem(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert client.get("/healthz").json()["status"] == "degraded"

    if fault != "locked":
        for each in tmp_path.glob("live.sqlite*"):
            each.unlink()
        create_live_store(path)
    client.get("/healthz")  # has the threads try again
    asyncio.run(service.answers.closed())
    assert client.get("/healthz").json() == {"status": "ok"}
    expected = 2 if fault == "locked" else 1
    assert client.post(VISITS.path, json={"visitor_id": "ann"}).json() == {"number": expected}
