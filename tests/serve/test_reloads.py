"""Reloads of the service that fail, and the feature stores that it opens, keeps and closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from models.family import Family
from serve.service import Settings
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

    assert "is not Unicode text" in content["detail"]


@pytest.mark.parametrize("body", [b'{"\\ud800": 1}', b'{"numbers": [1, 2], "\\ud800": 1}'])
def test_a_problem_can_quote_text_that_is_not_unicode(
    toy: Family, toy_bundle: Callable[..., Path], body: bytes
) -> None:
    client = client_of(loaded("toy", version="1", bundle=toy_bundle("v1")))

    content = assert_problem(
        client.post("/v1/colours", content=body, headers={"content-type": "application/json"}), 422
    )

    assert content["errors"][0]["pointer"] == r"#/\ud800"
