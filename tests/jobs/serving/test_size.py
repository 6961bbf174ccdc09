"""Replicas and address: what is said, else what was deployed before, else the default."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy
from jobs.cli.context import Context, Store
from jobs.serving import size
from jobs.serving.config import (
    PinnedModel,
    Size,
    application_of,
    config_path,
    next_standby,
    read_config,
    user_config,
    write_config,
)
from jobs.serving.size import WantedSize, kept_size, resolve_size
from models import FAMILIES
from models.family import Family
from tests.kit.shop import SHOP

MODEL = PinnedModel(version="1", directory=Path("models/1"), digest="d" * 64)


@pytest.mark.parametrize(
    ("said", "kept", "fits", "expected"),
    [
        ({}, None, 9, (2, 2)),
        ({}, None, 1, (1, 2)),
        ({}, None, 0, (1, 2)),
        ({"min_replicas": 5}, None, 9, (5, 5)),
        ({"max_replicas": 1}, None, 9, (1, 1)),
        ({}, (1, 4), 9, (1, 4)),
        ({"min_replicas": 3}, (1, 2), 9, (3, 3)),
        ({"min_replicas": 3}, (1, 7), 9, (3, 7)),
        ({"max_replicas": 2}, (4, 8), 9, (2, 2)),
    ],
)
def test_what_is_not_said_is_kept_and_otherwise_two_replicas_where_they_fit(
    said: dict[str, int], kept: tuple[int, int] | None, fits: int, expected: tuple[int, int]
) -> None:
    wanted = WantedSize(said.get("min_replicas"), said.get("max_replicas"), None, None)

    found = resolve_size(wanted, Size(*kept) if kept else None, default_cpus=0.0, fits=fits)

    assert (found.min_replicas, found.max_replicas) == expected


def target(store: Store, family: Family, before: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    given = deploy.Options(**options)
    return deploy._target_config(Context(store=store), family, given, MODEL, before, index=None)


def test_a_plain_later_deploy_keeps_replicas_resources_and_address(store: Store) -> None:
    first = target(store, SHOP, None, min_replicas=3, max_replicas=4, cpus=0.5, gpus=0.25, host="0.0.0.0", port=9001)

    later = target(store, SHOP, first)

    assert kept_size(later, SHOP) == Size(3, 4, 0.5, 0.25)
    assert (later["http_options"]["host"], later["http_options"]["port"]) == ("0.0.0.0", 9001)


def test_the_deploy_of_another_family_changes_nothing_of_the_first(store: Store) -> None:
    first = target(store, SHOP, None, min_replicas=3, max_replicas=4, port=9001)

    both = target(store, FAMILIES["image"], first, min_replicas=1)

    assert application_of(both, SHOP) == application_of(first, SHOP)
    assert both["http_options"] == first["http_options"]
    assert kept_size(both, FAMILIES["image"]) == Size(1, 2, 0.0, 0.0)


def test_what_replicas_cost_is_said_and_why_there_is_only_one(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size, "_free_bytes", lambda: size.SPARE_BYTES + size.REPLICA_BYTES + 1)

    with caplog.at_level(logging.INFO, logger="shopkeeper"):
        found = kept_size(target(store, SHOP, None), SHOP)

    assert found == Size(1, 2, 0.0, 0.0)
    assert "replicas: 1 to 2 (the default), each about 450 MB of memory" in caplog.text
    assert "one replica, as memory is free for no more" in caplog.text


def served(version: str, standby: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"version": version, "bundle": f"models/{version}", "digest": version, "index": None, "standby": standby}


def test_the_standby_is_what_was_served_before_also_if_the_same_model_is_deployed_again() -> None:
    first = next_standby({}, version="1", digest="1")
    second = next_standby(served("1"), version="2", digest="2")
    again = next_standby(served("2", second), version="2", digest="2")

    assert first is None
    assert second == again == {"version": "1", "bundle": "models/1", "digest": "1", "index": None}


def test_the_paths_of_the_standby_move_with_the_store(tmp_path: Path) -> None:
    before, after = Store(tmp_path / "before"), Store(tmp_path / "after")
    config: dict[str, Any] | None = None
    for version in ("1", "2"):
        model = PinnedModel(version, before.serve / "models" / "recommender" / version, version * 64)
        config = deploy._target_config(Context(store=before), SHOP, deploy.Options(), model, config, index=None)
    assert config is not None
    write_config(config_path(before), config)
    before.root.rename(after.root)

    found = user_config(read_config(config_path(after)), SHOP)

    assert found["standby"]["bundle"] == str(after.serve / "models" / "recommender" / "1")
