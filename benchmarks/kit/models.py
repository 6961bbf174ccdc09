"""Models that a benchmark trains in its own process, and their scores of the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.evaluate import Model, Scores, evaluate_shard, join
from models.family import Family
from models.prepared import Prepared


def trained(family: Family, config: Any, data: Prepared, directory: Path) -> Model:
    """The best epoch's model of a training on one worker."""
    result = run_training(
        family, config=config, data=data, directory=directory, worker=WorkerContext(), report=lambda _: None
    )
    loaded = bundle.load(result.best, family)
    return Model(family, loaded.config, loaded.schema, loaded.network)


def scored(model: Model, data: Prepared) -> Scores:
    """The scores of the test split."""
    scores = join([evaluate_shard(model, data, "test", shard) for shard in range(data.num_shards)])
    assert scores is not None
    return scores
