"""A small prepared shop for the tests of forecasts, and what is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.forecast import FAMILY
from models.forecast.prepare.settings import PrepareConfig
from models.forecast.schema import Schema
from models.prepared import Prepared


def prepared(directory: Path, **settings: Any) -> Prepared:
    """Prepared data of some settings, in an empty directory."""
    directory.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        FAMILY.prepare(PrepareConfig(**settings), directory, executor)
    return Prepared(directory)


def sales_file(path: Path, units: Mapping[str, Sequence[object]], *, more: str = "") -> Path:
    """A CSV file of daily sales from 1 January 2024, by product; None has no row."""
    lines = [f"product_id,date,units{more}"]
    for product, sold in units.items():
        for number, unit in enumerate(sold):
            if unit is not None:
                lines.append(f"{product},{date(2024, 1, 1) + timedelta(days=number)},{unit}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


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
