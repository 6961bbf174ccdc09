"""A shop of MovieLens 1M's size to serve: prepared from a synthetic log, with item attributes and stored histories."""

from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.kit.synthetic_log import write_log
from models import FAMILIES, bundle, golden
from models.features import write_store
from models.prepared import Prepared
from serve.service import Service, Settings

NUM_ITEMS, NUM_USERS, EVENTS_PER_USER = 3700, 6040, 60


def write_shop(work: Path) -> Settings:
    """Write a bundle of transitions and a filled feature store to a directory."""
    family = FAMILIES["recommender"]
    log, items, data, model = work / "log.parquet", work / "items.parquet", work / "data", work / "model"
    write_log(log, num_items=NUM_ITEMS, num_users=NUM_USERS, events_per_user=EVENTS_PER_USER)
    _write_items(log, items)
    data.mkdir()
    with ThreadPoolExecutor(1) as executor:
        schema = family.prepare(family.PrepareConfig(raw=str(log), items=str(items)), data, executor)
    config = family.Config(network="transitions")
    network = family.build(config, schema)
    family.initialise(network, Prepared(data), schema)
    files = {
        "config.json": dataclasses.asdict(config),
        "schema.json": schema.model_dump(mode="json"),
        "metrics.json": {},
        "golden.json": golden.golden(family, network.eval(), schema),
    }
    bundle.write_directory(model, files, {"model.safetensors": network.state_dict()})
    write_store(work / "features.sqlite", family.features, Prepared(data))
    return Settings(version="1", bundle=model, feature_store=work / "features.sqlite")


def served(settings: Settings) -> Service:
    """A service of the shop."""
    service = Service("recommender")
    asyncio.run(service.load(settings))
    return service


def _write_items(log: Path, path: Path) -> None:
    ids = pq.read_table(log, columns=["item_id"]).column("item_id").unique().to_pylist()
    draw = np.random.default_rng(0)
    table = {
        "item_id": ids,
        "price": np.round(draw.lognormal(3.0, 1.0, len(ids)), 2),
        "brand": [f"brand-{number}" for number in draw.integers(0, 200, len(ids))],
        "in_stock": draw.random(len(ids)) < 0.8,
    }
    pq.write_table(pa.table(table), path)
