"""Which training examples each optimizer step takes: at random, or examples of similar length together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jobs.training.distributed import all_gather
from jobs.training.validation import Task

POOL_STEPS = 50
"""Steps whose examples are sorted by length together: long enough to pad little, short enough to stay random."""


@dataclass(frozen=True)
class TrainingSplit:
    """A worker's part of the training split, in an epoch."""

    dataset: Any
    """This worker's examples."""
    num_examples: int
    """Examples of all workers together."""
    steps: int
    """Optimizer steps of every worker: all examples in batches of `batch_size`, however many workers there are."""
    weight: float
    """Of this worker's mean loss in the mean over workers, so that every example counts the same."""


def training_split(task: Task, epoch: int) -> TrainingSplit:
    """This worker's training examples and how many steps every worker makes with its own."""
    worker = task.worker
    shards = range(worker.rank, task.schema.num_shards, worker.world_size)
    dataset = task.family.dataset(task.data, "train", shards, schema=task.schema, config=task.config, epoch=epoch)
    sizes = all_gather(len(dataset), worker)
    if not all(sizes):
        raise ValueError(f"worker {sizes.index(0)} of {worker.world_size} has no training example; use fewer workers")
    total = sum(sizes)
    return TrainingSplit(
        dataset=dataset,
        num_examples=total,
        steps=math.ceil(total / task.config.batch_size),
        weight=len(dataset) * worker.world_size / total,
    )


def batches(task: Task, split: TrainingSplit) -> list[list[int]]:
    """The examples of each step, drawn with torch's generator: equal parts, so none is left over.

    A worker with fewer examples than steps repeats some. With the family's `lengths` a step has examples of similar
    length, and the steps come in a random order.
    """
    dataset, steps = split.dataset, split.steps
    order = torch.randperm(len(dataset)).tolist()
    if task.family.lengths is None:
        return [_part(order, step, steps) for step in range(steps)]
    lengths = task.family.lengths(dataset)
    pool = POOL_STEPS * max(1, len(order) // steps)
    pools = [sorted(order[start : start + pool], key=lengths.__getitem__) for start in range(0, len(order), pool)]
    by_length = [row for rows in pools for row in rows]
    return [_part(by_length, step, steps) for step in torch.randperm(steps).tolist()]


def _part(order: Sequence[int], step: int, steps: int) -> list[int]:
    size = len(order)
    return list(order[size * step // steps : size * (step + 1) // steps]) or [order[step % size]]
