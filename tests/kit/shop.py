"""A small shop for deployment tests: prepared data and untrained models."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from jobs.cli.context import Store
from models import FAMILIES
from models.family import Family
from models.prepared import Prepared
from tests.kit.bundles import write_bundle
from tests.kit.register import TOY

SHOP = FAMILIES["recommender"]


def prepare_shop(store: Store) -> Prepared:
    """Prepare a small log as the current data of a store."""
    log = store.root / "log.txt"
    store.root.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(f"u{user} item-{(user + step) % 20}" for user in range(40) for step in range(6)))
    data = store.data("recommender") / "small"
    data.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        SHOP.prepare(SHOP.PrepareConfig(raw=str(log), split="leave-one-out"), data, executor)
    (store.data("recommender") / "CURRENT").write_text(data.name)
    return Prepared(data)


def prepare_toy(store: Store) -> Prepared:
    """Prepare a few visitors as the current data of the toy family."""
    data = store.data("toy") / "toy"
    if not data.is_dir():
        raw = store.root / "visitors.csv"
        raw.write_text("visitor_id,warmth,brightness,colour\n" + "\n".join(f"v{n},{n}.0,1.0,red" for n in range(50)))
        data.mkdir(parents=True)
        with ThreadPoolExecutor(1) as executor:
            TOY.prepare(TOY.PrepareConfig(raw=str(raw)), data, executor)
        (store.data("toy") / "CURRENT").write_text(data.name)
    return Prepared(data)


def write_model(family: Family, data: Prepared, directory: Path, **fields: Any) -> Path:
    """Write an untrained model."""
    schema = data.schema(family.Schema, family.files)
    config = family.Config(**fields)
    torch.manual_seed(0)
    network = family.build(config, schema)
    family.initialise(network, data, schema)
    return write_bundle(family, directory, network=network.eval(), schema=schema, config=config)
