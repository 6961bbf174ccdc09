"""Settings that are left at auto are chosen by the log."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.cli.context import Store
from jobs.tracking.runs import resolved
from jobs.training.search_space import search_space
from models.recommender.auto_settings import resolve
from models.recommender.config import SPACE, Config
from models.recommender.networks.build import build
from models.recommender.schema import Schema
from tests.kit.logs import RECOMMENDER, make_log, prepared, write_csv


def schema_of(*, p90: int | None, num_events: int, num_items: int) -> Schema:
    return Schema(
        family="recommender",
        fingerprint="0",
        num_shards=32,
        num_examples={"train": num_events, "val": 1, "test": 1},
        split="leave-one-out",
        items=[f"i{place}" for place in range(num_items)],
        item_counts=[num_events // num_items] * num_items,
        item_first_seen=[0] * num_items,
        train_until=0,
        p90_events_per_user=p90,
    )


CHOSEN: dict[str, tuple[Schema, dict[str, Any]]] = {
    "Beauty": (
        schema_of(p90=14, num_events=153_776, num_items=12_101),
        {"max_length": 50, "batch_size": 128, "dropout": 0.4, "learning_rate": 3e-3},
    ),
    "MovieLens 1M": (
        schema_of(p90=400, num_events=987_531, num_items=3_416),
        {"max_length": 200, "batch_size": 32, "dropout": 0.2, "learning_rate": 2e-3},
    ),
    "Online Retail": (
        schema_of(p90=202, num_events=420_783, num_items=3_941),
        {"max_length": 200, "batch_size": 32, "dropout": 0.3, "learning_rate": 2e-3},
    ),
    "a small shop": (
        schema_of(p90=30, num_events=24_000, num_items=300),
        {"max_length": 50, "batch_size": 24, "dropout": 0.3, "learning_rate": 2e-3},
    ),
    "data of an earlier release": (
        schema_of(p90=None, num_events=153_776, num_items=12_101),
        {"max_length": 200, "batch_size": 32, "dropout": 0.2, "learning_rate": 2e-3},
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_settings_of_a_kind_of_log_are_those_that_were_measured_on_it(name: str) -> None:
    schema, expected = CHOSEN[name]
    assert {field: getattr(resolve(Config(), schema), field) for field in expected} == expected


def test_given_settings_are_kept_and_the_batch_follows_the_length() -> None:
    schema, _ = CHOSEN["Beauty"]
    found = resolve(Config(max_length=100, dropout=0.1), schema)
    assert (found.max_length, found.dropout, found.batch_size) == (100, 0.1, 64)
    assert resolve(found, schema) is found


def test_networks_of_unresolved_settings_are_those_of_resolved_ones() -> None:
    schema = schema_of(p90=14, num_events=600, num_items=30)
    for network in ("transformer", "autoencoder", "popularity"):
        built = [
            build(config, schema) for config in (Config(network=network), resolve(Config(network=network), schema))
        ]
        shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in built]
        assert shapes[0] == shapes[1]


def test_a_run_says_and_keeps_what_was_chosen(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    data = prepared(store, write_csv(tmp_path / "log.csv", make_log()))
    with caplog.at_level("INFO", logger="shopkeeper"):
        found = resolved(RECOMMENDER, Config(dropout=0.1), data)
    assert "chosen by the data: --batch-size 16, --learning-rate 0.003, --max-length 50" in caplog.text
    assert not [
        name for name, value in dataclasses.asdict(found).items() if value == "auto" and name in CHOSEN["Beauty"][1]
    ]
    assert torch.tensor(found.dropout).item() == pytest.approx(0.1)


def test_a_sweep_searches_what_is_left_at_auto() -> None:
    schema, _ = CHOSEN["Beauty"]
    default = resolve(Config(), schema)
    space, _ = search_space(RECOMMENDER, resolve(Config(), schema), (), default=default)
    assert space.keys() == SPACE.keys()
    space, config = search_space(RECOMMENDER, resolve(Config(dropout=0.1), schema), (), default=default)
    assert "dropout" not in space and config.dropout == 0.1
