"""Reloads of the service that fail, and the feature stores that it opens, keeps and closes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import FAMILIES
from models.family import Family
from models.features import FeatureStore, create_live_store
from serve.problems import problem
from serve.service import Service, Settings
from serve.stored_features import StoredFeatures
from tests.kit import toy as toy_module
from tests.kit import toy_extras
from tests.kit.toy_extras import Gate, slow
from tests.serve.test_service import assert_problem, client_of, loaded, write_features


@pytest.mark.parametrize("kind", ["feature_store", "live_feature_store"])
def test_a_damaged_feature_store_is_reported_and_the_previous_model_stays_in_use(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    service = loaded("toy", version="1", bundle=toy_bundle("v1"))
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a database" * 100)

    asyncio.run(service.load(Settings.model_validate({"version": "2", "bundle": toy_bundle("v2"), kind: damaged})))

    failed = service.info().last_failed_reload
    assert (service.info().version, failed and failed.version) == ("1", "2")
    assert failed is not None and "damaged.sqlite" in failed.error


def test_a_reload_that_fails_in_any_way_is_reported_and_the_previous_model_stays_in_use(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    service = loaded("toy", version="1", bundle=toy_bundle("v1"))

    # The toy family has no index, which is an AssertionError.
    asyncio.run(service.load(Settings(version="2", bundle=toy_bundle("v2"), index=tmp_path)))

    failed = service.info().last_failed_reload
    assert (service.info().version, failed and failed.error) == ("1", "AssertionError: toy has no index")


def test_a_key_that_is_not_unicode_is_a_422_problem(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "features.sqlite"
    write_features(path, {"ann": [3.0, 3.0]})
    client = client_of(loaded("toy", version="1", bundle=toy_bundle("v1"), feature_store=path))
    headers = {"content-type": "application/json"}

    content = assert_problem(client.post("/v1/colours", content=b'{"visitor_id": "\\ud800"}', headers=headers), 422)

    assert "half of a surrogate pair, which is not Unicode" in content["detail"]


def test_a_problem_can_quote_text_that_is_not_unicode() -> None:
    assert json.loads(bytes(problem(422, "no visitor \ud800").body))["detail"] == r"no visitor \ud800"


def num_open_files(directory: Path) -> int:
    """Open files of this process in a directory."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of this listing
            found += directory in descriptor.readlink().parents
    return found


def test_the_stores_of_a_replaced_model_are_closed_when_its_last_request_ends(
    toy_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    long = slow(gate, timeout_s=600.0)
    family = dataclasses.replace(toy_extras.FAMILY, endpoints=[*toy_extras.FAMILY.endpoints, long])
    monkeypatch.setitem(FAMILIES, "toy", family)
    stores = tmp_path / "stores"
    filled_store, live_store = stores / "features.sqlite", stores / "live-features.sqlite"
    FeatureStore(filled_store).close()
    create_live_store(live_store)
    service, model = Service("toy"), toy_bundle("model")

    async def load(version: str) -> int:
        given = Settings(version=version, bundle=model, feature_store=filled_store, live_feature_store=live_store)
        await service.load(given)
        await service.answers.closed()
        return num_open_files(stores)

    async def reload_during_a_request() -> list[int]:
        counts = [await load("1")]
        waiting = asyncio.create_task(service.answer(long, toy_module.Request(numbers=(1.0, 0.0))))
        assert await asyncio.to_thread(gate.entered.acquire, timeout=60)
        counts.append(await load("2"))
        gate.is_open.set()
        await waiting
        return [*counts, *[await load(str(version)) for version in range(3, 8)]]

    first, during, *after = asyncio.run(reload_during_a_request())

    assert 0 < first < during
    # SQLite keeps some files of closed connections open, and reuses them.
    assert max(after) <= during


def test_a_replacement_that_cannot_be_read_is_logged_and_the_open_store_stays_in_use(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, new = tmp_path / "features.sqlite", tmp_path / "new.sqlite"
    write_features(path, {"ann": [3.0, 3.0]})
    client = client_of(loaded("toy", version="1", bundle=toy_bundle("v1"), feature_store=path))
    new.write_bytes(b"not a database" * 100)
    new.replace(path)

    responses = [client.post("/v1/colours", json={"visitor_id": "ann"}) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 200]
    logged = [record for record in caplog.records if "features.sqlite is not a readable" in record.getMessage()]
    assert len(logged) == 1, "not for each request"
    write_features(new, {"bob": [1.0, 1.0]})
    new.replace(path)
    assert client.post("/v1/colours", json={"visitor_id": "bob"}).status_code == 200


def test_a_store_that_is_replaced_while_it_is_opened_is_reopened(
    toy: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "features.sqlite", tmp_path / "new.sqlite"
    write_features(path, {"ann": [3.0, 3.0]})
    write_features(new, {"ann": [1.0, 1.0]})
    connect = sqlite3.connect

    def connect_and_replace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened: sqlite3.Connection = connect(*arguments, **options)
        if new.exists():
            new.replace(path)
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect_and_replace)
    stores = StoredFeatures(toy, filled_store=path, live_store=None)

    found = stores.read(toy_module.Request(visitor_id="ann"))

    stores.close_readers()
    assert found.values == {"visitor": {"ann": [1.0, 1.0]}}
