"""Batching: the global batch does not depend on the number of workers, and lengths are bucketed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.training.batches import batches, training_split
from jobs.training.distributed import WorkerContext
from jobs.training.task import TrainingTask
from models.family import Dataset, Family
from models.prepared import Prepared
from tests.kit import toy as toy_module
from tests.kit.gloo import run_workers
from tests.kit.register import TOY
from tests.kit.toy import Visitor

BATCH_SIZE = 48


def make_task(family: Family, data: Prepared, directory: Path, worker: WorkerContext) -> TrainingTask:
    """A training task of the toy."""
    config = toy_module.Config(batch_size=BATCH_SIZE)
    return TrainingTask(family, config, data.schema(family.Schema), data, directory, worker)


def write_batches_of_worker(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """Write the local batch sizes of one worker, and how often it sees each of its examples."""
    task = make_task(TOY, data, directory, WorkerContext(rank=rank, world_size=world_size))
    split = training_split(task, 1)
    order = batches(task, split)
    seen = np.bincount([row for rows in order for row in rows], minlength=len(split.dataset))
    sizes = [len(rows) for rows in order]
    np.savez(directory / f"{rank}-of-{world_size}.npz", sizes=sizes, seen=seen, weight=split.weight)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_global_batch_is_the_same_on_any_number_of_workers(
    toy: Family, toy_data: Prepared, tmp_path: Path, world_size: int
) -> None:
    run_workers(partial(write_batches_of_worker, toy_data), world_size, tmp_path)

    parts = [np.load(tmp_path / f"{rank}-of-{world_size}.npz") for rank in range(world_size)]
    num_examples = toy_data.schema(toy.Schema).num_examples["train"]
    assert (np.concatenate([part["seen"] for part in parts]) == np.ones(num_examples)).all(), (
        "each example must be seen once"
    )
    assert {len(part["sizes"]) for part in parts} == {math.ceil(num_examples / BATCH_SIZE)}
    global_sizes = np.sum([part["sizes"] for part in parts], axis=0)
    assert global_sizes.max() - global_sizes.min() <= world_size and global_sizes.max() <= BATCH_SIZE + world_size
    each = [float(part["weight"]) / world_size / len(part["seen"]) for part in parts]
    assert each == pytest.approx([1 / num_examples] * world_size), "every example must have the same weight"


def lengths_of(dataset: Dataset[Visitor]) -> Sequence[int]:
    """Warmth as a proxy for the length of a text."""
    return [round(1000 * float(dataset[row][0])) for row in range(len(dataset))]


def test_examples_of_similar_length_share_a_step_and_none_is_dropped(
    toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    spread = {}
    for name, family in {"random": toy, "by length": dataclasses.replace(toy, lengths=lengths_of)}.items():
        task = make_task(family, toy_data, tmp_path, WorkerContext())
        split = training_split(task, 1)
        torch.manual_seed(0)
        order = batches(task, split)
        assert sorted(row for rows in order for row in rows) == list(range(len(split.dataset)))
        lengths = lengths_of(split.dataset)
        spread[name] = np.mean([np.ptp([lengths[row] for row in rows]) for rows in order])
        shortest = [min(lengths[row] for row in rows) for rows in order]
        assert shortest != sorted(shortest), "the order of the steps must be random"

    assert spread["by length"] < 0.3 * spread["random"]
