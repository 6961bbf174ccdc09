"""Runs a function in local processes of one gloo process group, like the workers of a training run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_workers(work: Callable[[int, int, Path], None], world_size: int, directory: Path) -> None:
    """Run `work(rank, world_size, directory)` in `world_size` processes; re-raises the error of any of them."""
    spawn(_process, (work, world_size, directory), nprocs=world_size)  # type: ignore[no-untyped-call]


def _process(rank: int, work: Callable[[int, int, Path], None], world_size: int, directory: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/gloo-{world_size}", rank=rank, world_size=world_size)
    work(rank, world_size, directory)
    gc.collect()  # DistributedDataParallel holds the group
    dist.barrier()
    dist.destroy_process_group()
    # Rarely, gloo's threads abort the process during interpreter shutdown, after the work is done.
    os._exit(0)
