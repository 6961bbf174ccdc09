"""Training in this process: what one worker on this machine does without a cluster, whose start takes ten seconds."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from jobs.cli.context import Failure, log
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, run_training
from jobs.training.recording import EpochRecorder, summarise_error
from models.errors import is_disk_full
from models.family import Family
from models.prepared import Prepared

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def fit_alone(family: Family, *, config: Any, data: Prepared, directory: Path, recorder: EpochRecorder) -> Result:
    """Run the training loop on all processors, resuming from the newest checkpoint in `directory`.

    Raises ValueError and TrainingDiverged like the loop, and Failure for an error that is not the user's.
    """
    threads, before = num_processors(), torch.get_num_threads()
    log.info("training in this process with %d thread%s", threads, "s" if threads > 1 else "")
    torch.set_num_threads(threads)
    try:
        return run_training(
            family,
            config=config,
            data=data,
            directory=directory,
            worker=WorkerContext(),
            report=lambda metrics: recorder.after_epoch(int(metrics["epoch"])),
        )
    except (ValueError, Failure):
        raise
    except Exception as error:
        if is_disk_full(error):
            raise
        raise Failure(f"training failed: {summarise_error(error)}") from error
    finally:
        torch.set_num_threads(before)


def num_processors() -> int:
    """The processors that this process may use, by its affinity and, in a container on Linux, its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        limit = math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        limit = math.inf
    return max(1, int(min(allowed, limit)))
