"""Prepared data and trained models of any family, for the tests of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.family import Family
from models.prepared import Prepared


def prepared(family: Family, directory: Path, **settings: Any) -> Prepared:
    """Prepared data of some settings of PrepareConfig, in an empty directory."""
    directory.mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        family.prepare(family.PrepareConfig(**settings), directory, executor)
    return Prepared(directory)


def trained(family: Family, data: Prepared, directory: Path, **settings: Any) -> Model:
    """A model trained with some settings of Config."""
    result = run_training(
        family,
        config=family.Config(**settings),
        data=data,
        directory=directory,
        worker=WorkerContext(),
        report=lambda _: None,
    )
    loaded = bundle.load(result.best, family)
    return Model(family, loaded.config, loaded.schema, loaded.network)


def scores_of(model: Model, data: Prepared, split: str = "test") -> Scores:
    """The scores of a split."""
    scores = join([evaluate_shard(model, data, split, shard) for shard in range(data.num_shards)])
    assert scores is not None
    return scores
