"""Small prepared reviews for the tests of the family, and what is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.prepare.settings import PrepareConfig


def prepared(directory: Path, **settings: Any) -> Prepared:
    """Prepared data of some settings, in an empty directory."""
    directory.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        FAMILY.prepare(PrepareConfig(**settings), directory, executor)
    return Prepared(directory)


def written(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """A Parquet file of reviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
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
