"""Processes of this machine that work together over gloo, as the workers of one training do."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def together(work: Callable[[int, int, Path], None], world_size: int, directory: Path) -> None:
    """Runs `work(rank, world_size, directory)` in so many processes of one group; what one of them raises is raised."""
    spawn(_process, (work, world_size, directory), nprocs=world_size)  # type: ignore[no-untyped-call]


def _process(rank: int, work: Callable[[int, int, Path], None], world_size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/gloo-{world_size}", rank=rank, world_size=world_size)
    work(rank, world_size, directory)
    gc.collect()  # DistributedDataParallel holds the group
    dist.barrier()
    dist.destroy_process_group()
    # Seldom, gloo's threads abort a process whose interpreter is being taken down, long after the work was done.
    os._exit(0)
