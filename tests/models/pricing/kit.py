"""A small prepared shop with known elasticities for the tests of prices, and what is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.prepared import Prepared
from models.pricing import FAMILY
from models.pricing.prepare.settings import PrepareConfig
from models.pricing.sample import Shop
from models.pricing.schema import Schema


def prepared(directory: Path, **settings: Any) -> Prepared:
    """Prepared data of some settings, in an empty directory."""
    directory.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        FAMILY.prepare(PrepareConfig(**settings), directory, executor)
    return Prepared(directory)


def prepared_shop(shop: Shop, directory: Path, **settings: Any) -> Prepared:
    """The prepared sales of a made-up shop."""
    tables = {"raw": str(shop.sales), "products": str(shop.products), "calendar": str(shop.calendar)}
    return prepared(directory, **tables, **settings)


def trained(data: Prepared, directory: Path, **settings: Any) -> Model:
    """A model trained with some settings of Config."""
    result = run_training(
        FAMILY,
        config=FAMILY.Config(**settings),
        data=data,
        directory=directory,
        worker=WorkerContext(),
        report=lambda _: None,
    )
    loaded = bundle.load(result.best, FAMILY)
    return Model(FAMILY, loaded.config, loaded.schema, loaded.network)


def scores_of(model: Model, data: Prepared, split: str = "test") -> Scores:
    """The scores of a split."""
    scores = join([evaluate_shard(model, data, split, shard) for shard in range(data.num_shards)])
    assert scores is not None
    return scores


def schema_of(data: Prepared) -> Schema:
    """The schema of prepared data."""
    return data.schema(Schema)


def weekly(path: Path, rows: Sequence[str], *, columns: str = "product_id,week,units,price") -> Path:
    """A CSV file of weekly sales; the week of a row is a number of weeks from 1 January 2024, written `w7`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return path
