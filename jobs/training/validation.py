"""Calibrates and evaluates a network on the validation split, with the same result on any number of workers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.training.distributed import all_gather
from jobs.training.task import TrainingTask
from models.evaluate import Model, blocks, check_same_names, evaluate_shard
from models.family import Family

Found = TypeVar("Found")


def validate(task: TrainingTask, network: Any) -> dict[str, float]:
    """Calibrate the network on the validation split and evaluate it there, on each example exactly once.

    Sums are kept per shard and added in shard order, so the result does not depend on the number of workers. A metric
    that is undefined, such as the correlation of a constant network, is left out. Raises ValueError when no example
    counts, and when `evaluate` does not give the family's metric.
    """
    network.eval()
    calibrate(task, network)
    scores = [part for part in _by_shard(task, lambda shard: _validate_shard(task, network, shard)) if part]
    _check_metric(task, scores)
    numerators = _sum([part.numerators for part in scores])
    denominators = _sum([part.denominators for part in scores])
    ratios = {name: numerators[name] / denominators[name] for name in numerators if denominators[name]}
    found = ratios | _computed(task.family, scores)
    return {f"val_{name}": value for name, value in found.items()}


@dataclass(frozen=True)
class _ShardScores:
    """A validation shard's contribution to each metric."""

    numerators: dict[str, float]
    denominators: dict[str, float]
    kept: dict[str, NDArray[Any]]


def _check_metric(task: TrainingTask, scores: Sequence[_ShardScores]) -> None:
    """Raise ValueError if this validation split, or this `evaluate`, cannot give the family's metric."""
    check_same_names("ratios", [part.numerators for part in scores])
    check_same_names("kept values", [part.kept for part in scores])
    metric = task.family.metric
    if scores and metric.compute is None and metric.name not in scores[0].numerators:
        raise ValueError(
            f"`evaluate` of {task.family.name} does not return its metric {metric.name}; it returns the ratios "
            f"{', '.join(sorted(scores[0].numerators)) or 'none'}; return {metric.name} too, or give it a `compute`"
        )
    counts = metric.compute is not None or any(part.denominators[metric.name] for part in scores)
    if not scores or not counts:
        raise ValueError(
            f"{metric.name} is undefined on the validation split in {task.data.path}: no example counts; "
            "prepare more data"
        )


def _computed(family: Family, scores: Sequence[_ShardScores]) -> dict[str, float]:
    """The metrics with a `compute` that are defined here; all NaN if the network's output is not finite."""
    kept = {name: np.concatenate([part.kept[name] for part in scores]) for name in scores[0].kept}
    finite = all(np.isfinite(values).all() for values in kept.values() if values.dtype.kind == "f")
    found = {
        metric.name: metric.computed(kept) if finite else math.nan
        for metric in family.all_metrics
        if metric.compute is not None
    }
    return {name: value for name, value in found.items() if not (finite and math.isnan(value))}


def _validate_shard(task: TrainingTask, network: Any, shard: int) -> _ShardScores | None:
    model = Model(task.family, task.config, task.schema, network)
    scores = evaluate_shard(model, task.data, "val", shard, device=task.worker.device)
    if scores is None:
        return None
    numerators = {name: math.fsum(values) for name, values in scores.numerators.items()}
    denominators = {name: math.fsum(values) for name, values in scores.denominators.items()}
    return _ShardScores(numerators, denominators, scores.kept)


def calibrate(task: TrainingTask, network: Any) -> None:
    """Set what the family chooses on the validation split, such as a temperature; the network must not be training."""
    calibration = task.family.calibration
    if calibration is None:
        return
    shards = _by_shard(task, lambda shard: _calibration_sums(task, network, shard))
    sums = [part for part in shards if part is not None]
    if sums:
        calibration.choose(network, functools.reduce(torch.add, sums).to(task.worker.device))


@torch.inference_mode()
def _calibration_sums(task: TrainingTask, network: Any, shard: int) -> Tensor | None:
    assert task.family.calibration is not None
    total: Tensor | None = None
    for batch, _ in blocks(task.family, task.data, "val", shard, schema=task.schema, config=task.config):
        sums = task.family.calibration.sums(network, batch.to(task.worker.device))
        if sums is None:
            return None
        total = sums.double().cpu() if total is None else total + sums.double().cpu()
    return total


def _by_shard(task: TrainingTask, measure: Callable[[int], Found]) -> list[Found]:
    """The result of `measure` for each validation shard, in shard order; each worker measures its own shards."""
    worker = task.worker
    own = {shard: measure(shard) for shard in range(worker.rank, task.schema.num_shards, worker.world_size)}
    found = {shard: value for part in all_gather(own, worker) for shard, value in part.items()}
    return [found[shard] for shard in sorted(found)]


def _sum(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(part[name] for part in parts) for name in parts[0]}
