"""Rank and device of a training worker, and the collectives between workers of one run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class WorkerContext:
    """Rank of this process, number of workers, and the device it computes on.

    With more than one worker, the default process group of torch.distributed must be initialised.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


def all_gather(value: Value, worker: WorkerContext) -> list[Value]:
    """`value` of every worker, ordered by rank; a collective call."""
    if worker.world_size == 1:
        return [value]
    values: list[Any] = [None] * worker.world_size
    dist.all_gather_object(values, value)
    return values


def barrier(worker: WorkerContext) -> None:
    """Block until every worker has reached this call."""
    if worker.world_size > 1:
        dist.barrier()


def wrap_ddp(network: Any, worker: WorkerContext) -> Any:
    """The network, wrapped in DistributedDataParallel if there are several workers, which must hold equal weights."""
    if worker.world_size == 1:
        return network
    if worker.device != "cpu":
        _use_dense_gradients(network)
    # Priors are large, constant buffers; those that do change are broadcast once per epoch instead of every step.
    return DistributedDataParallel(network, forward_sync_buffers=False, init_sync=False, gradient_as_bucket_view=True)


def broadcast_buffers(network: nn.Module, worker: WorkerContext) -> None:
    """Copy the floating-point buffers of rank 0 to every worker, such as batch-norm statistics."""
    if worker.world_size > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, src=0)


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Seed every random generator, so that an epoch of a resumed run equals that of an uninterrupted one."""
    drawn = int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def _use_dense_gradients(network: nn.Module) -> None:
    """NCCL cannot all-reduce sparse gradients."""
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
