"""Assigns training examples to optimizer steps, shuffled or bucketed by length, and makes the batches of the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from jobs.training.distributed import all_gather
from jobs.training.task import TrainingTask

BUCKET_STEPS = 50
"""Size of a bucket in steps: large enough for little padding, small enough to stay random."""

BATCHES_AHEAD = 4
"""For a GPU, by one process: more take longer to start in each epoch than they save, see docs/log.md."""


@dataclass(frozen=True)
class TrainingSplit:
    """One worker's partition of the training split in one epoch."""

    dataset: Any
    """This worker's examples."""
    num_examples: int
    """Examples over all workers."""
    steps: int
    """Optimizer steps per worker: all examples in global batches of `batch_size`."""
    weight: float
    """Factor on this worker's mean loss, so that every example weighs the same in the mean over workers."""


def training_split(task: TrainingTask, epoch: int) -> TrainingSplit:
    """This worker's training examples, and the number of steps that every worker makes."""
    worker = task.worker
    shards = range(worker.rank, task.schema.num_shards, worker.world_size)
    dataset = task.family.dataset(task.data, "train", shards, schema=task.schema, config=task.config, epoch=epoch)
    sizes = all_gather(len(dataset), worker)
    if not all(sizes):
        raise ValueError(
            f"worker {sizes.index(0)} of {worker.world_size} has no training examples; use fewer --workers"
        )
    total = sum(sizes)
    return TrainingSplit(
        dataset=dataset,
        num_examples=total,
        steps=math.ceil(total / task.config.batch_size),
        weight=len(dataset) * worker.world_size / total,
    )


def batches(task: TrainingTask, split: TrainingSplit) -> list[list[int]]:
    """The example indices of each step, shuffled with torch's generator into chunks of almost equal size.

    A worker with fewer examples than steps repeats some. If the family has `lengths`, a step holds examples of
    similar length, and the order of the steps is random.
    """
    dataset, steps = split.dataset, split.steps
    order = torch.randperm(len(dataset)).tolist()
    if task.family.lengths is None:
        return [_chunk(order, step, steps) for step in range(steps)]
    lengths = task.family.lengths(dataset)
    size = BUCKET_STEPS * max(1, len(order) // steps)
    buckets = [sorted(order[start : start + size], key=lengths.__getitem__) for start in range(0, len(order), size)]
    by_length = [row for rows in buckets for row in rows]
    return [_chunk(by_length, step, steps) for step in torch.randperm(steps).tolist()]


def collated(task: TrainingTask, split: TrainingSplit, order: Sequence[Sequence[int]]) -> Iterable[Any]:
    """The batch of each step, on the CPU, in order.

    For a GPU they are made ahead, in pinned memory, by a process of its own: a thread would take the interpreter from
    the one that launches the kernels.
    """
    if torch.device(task.worker.device).type == "cpu":
        return (task.family.collate([split.dataset[row] for row in rows]) for rows in order)
    return DataLoader(
        split.dataset,
        batch_sampler=[list(rows) for rows in order],
        collate_fn=task.family.collate,
        num_workers=1,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=True,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the epoch's own generator is for dropout and negatives
    )


def _chunk(order: Sequence[int], step: int, steps: int) -> list[int]:
    size = len(order)
    return list(order[size * step // steps : size * (step + 1) // steps]) or [order[step % size]]
