"""Which of how many workers this process is, and what workers of one training say to each other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Place:
    """Which of how many workers this process is, and the device it computes on.

    With more than one worker the default process group of torch.distributed must exist.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"


def share(value: Shared, place: Place) -> list[Shared]:
    """`value` of every worker, in the order of ranks; every worker must call it."""
    if place.world_size == 1:
        return [value]
    values: list[Any] = [None] * place.world_size
    dist.all_gather_object(values, value)
    return values


def wait_for_all(place: Place) -> None:
    """Return when every worker has come here."""
    if place.world_size > 1:
        dist.barrier()


def distribute(network: Any, place: Place) -> Any:
    """The network, wrapped so that gradients are averaged over workers; all must hold the same weights."""
    if place.device != "cpu":
        _use_dense_gradients(network)
    if place.world_size == 1:
        return network
    # Priors are large buffers that do not change; what does change is equalised once an epoch instead of each step.
    return DistributedDataParallel(network, forward_sync_buffers=False, init_sync=False, gradient_as_bucket_view=True)


def equalise_buffers(network: nn.Module, place: Place) -> None:
    """Give every worker the floating-point buffers of the first, such as the statistics of a batch norm."""
    if place.world_size > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, src=0)


def seed_everything(seed: int, epoch: int, rank: int) -> None:
    """Seed every generator, so that an epoch is the same whether or not the run was interrupted before it."""
    drawn = int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)


def _use_dense_gradients(network: nn.Module) -> None:
    """NCCL adds up no sparse gradients, and a GPU passes over a whole table within a millisecond."""
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
