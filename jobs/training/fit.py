"""Train one network on Ray workers: the only TorchTrainer of the project, around the one training loop."""

from __future__ import annotations

import logging
import math
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

# `ray.train` has these too, but to a type checker they are those of Train's first version there.
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.result import Result as TrainResult
from ray.train.v2.torch.torch_trainer import TorchTrainer

from jobs.cli.context import Context, Failure, UsageFailure, log
from jobs.cli.signals import sigint_kept
from jobs.cluster import connection
from jobs.tracking.client import Run, Tracking
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, TrainingDiverged, run_training
from models.family import Family
from models.files import write_text
from models.prepared import Prepared

MAX_FAILURES = 3
"""How often a training is continued after losing a worker."""


@dataclass(frozen=True)
class Workers:
    """How many training processes, and what each has of the cluster."""

    num: int = 1
    cpus_each: int = 1
    gpu: bool = False


class EpochLogger(UserCallback):
    """Logs each epoch once to the tracked run, from the controller of a training, also after a restart."""

    def __init__(self, context: Context, run_id: str, directory: Path) -> None:
        self._context, self._run_id, self._directory = context, run_id, directory
        self._tracked: Run | None = None  # opened in the controller, where it is needed

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Called by Ray when every worker has reported an epoch."""
        self._tracked = self._tracked or Tracking(self._context).resume_run(self._run_id)
        log_epochs(self._tracked, self._directory, metrics[0]["epoch"])


def fit(
    family: Family,
    *,
    config: Any,
    data: Prepared,
    directory: Path,
    workers: Workers,
    callbacks: Sequence[UserCallback] = (),
) -> Result:
    """Run the training loop on Ray workers, through lost workers, from where `directory` stopped.

    Ray must be connected. Raises ValueError and TrainingDiverged as the loop does, and Failure when workers
    were lost too often.
    """
    trainer = TorchTrainer(
        _work,
        train_loop_config={"family": family, "config": config, "data": data, "directory": directory},
        scaling_config=ScalingConfig(
            num_workers=workers.num,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus_each} | ({"GPU": 1} if workers.gpu else {}),
        ),
        run_config=RunConfig(
            # A name of its own: Ray would take a run of the same name for finished. Our checkpoints are in `directory`.
            name=f"{family.name}-{directory.name}-{uuid.uuid4().hex[:8]}",
            storage_path=str((directory / "ray").absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
            callbacks=list(callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with _ctrl_c_as_exception():
        try:
            return _returned(trainer.fit())
        except TrainingFailedError as error:
            raise Failure(f"training failed after {MAX_FAILURES} retries: {reason(error)}") from error


def place_workers(num: int, *, gpu: bool) -> Workers:
    """Share the cluster's processors among workers; raises UsageFailure for more than it can ever hold.

    Ray itself would wait for ever for what does not exist.
    """
    places = num_places(1, gpu=gpu)
    if not 1 <= num <= places:
        has = connection.resources()
        wanted = f"{num} worker{'s' if num != 1 else ''} with a CPU{' and a GPU' if gpu else ''} each"
        raise UsageFailure(
            f"cannot place {wanted}: the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; "
            + (f"ask for 1 to {places}" if places else "name a cluster that has them with --address")
        )
    fitting = 1
    while num_places(fitting + 1, gpu=gpu) >= num:
        fitting += 1
    free = int(connection.free_resources().get("CPU", 0)) // num
    if not free:
        log.warning("all CPUs of the cluster are in use; training waits for its %d", num)
    return Workers(num=num, cpus_each=max(1, min(fitting, free)), gpu=gpu)


def num_places(cpus: int, *, gpu: bool) -> int:
    """How many workers of `cpus` CPUs (and a GPU) fit on the nodes of the cluster, were nothing else there."""
    nodes = connection.node_resources()
    return sum(int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if gpu else math.inf)) for node in nodes)


def log_epochs(tracked: Run, directory: Path, last: int) -> None:
    """Log the epochs up to `last` that were not logged before, by this process or one that was lost."""
    marker = directory / "logged_epoch"
    logged = int(marker.read_text(encoding="utf-8")) if marker.exists() else -1
    for report in checkpoints.read_reports(directory)[logged + 1 : last + 1]:
        tracked.log_metrics(report, step=int(report["epoch"]))
        write_text(marker, str(report["epoch"]))


@contextmanager
def ended(tracked: Run, hint: str) -> Iterator[None]:
    """Close the tracked run as what became of it; an interruption says how to go on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        tracked.end("KILLED")
        log.warning("interrupted; %s", hint)
        raise type(interruption)(f"interrupted; {hint}") from None
    except TrainingDiverged as error:
        tracked.end("FAILED")
        raise Failure(str(error), resume=tracked.run_id) from error
    except BaseException:
        tracked.end("FAILED")
        raise
    tracked.end("FINISHED")


def reason(error: Exception) -> str:
    """The last line of the first worker's error, or of the controller's, or of any other."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    lines = [line for line in str(next(iter(failures.values()))).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def log_to_stderr() -> None:
    """Let a worker's messages through to its output, which Ray carries to the driver."""
    logging.getLogger().setLevel(logging.WARNING)  # Ray reports every epoch in full through the root logger
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False


def _returned(trained: object) -> Result:
    """What the first worker returned; raises what it returned instead of raising."""
    assert isinstance(trained, TrainResult)
    found: object = trained.return_value
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Result)
    return found


def _work(settings: dict[str, Any]) -> Result | Exception:
    """One worker's share of a training."""
    log_to_stderr()
    torch.set_num_threads(int(connection.own_resources().get("CPU", 1)))
    session = ray.train.get_context()
    device = str(ray.train.torch.get_device())
    worker = WorkerContext(rank=session.get_world_rank(), world_size=session.get_world_size(), device=device)
    try:
        return run_training(**settings, worker=worker, report=ray.train.report)
    except ValueError as error:
        # Raised anew it would be retried, in vain. Workers that fail alone must raise, or the others wait for them.
        if worker.world_size == 1 or isinstance(error, TrainingDiverged):
            return error
        raise


@contextmanager
def _ctrl_c_as_exception() -> Iterator[None]:
    """Ray Train ends the process on Ctrl-C and leaves its signal handler behind; here it is a KeyboardInterrupt."""
    with sigint_kept():
        try:
            yield
        except SystemExit:
            if threading.current_thread() is not threading.main_thread():
                raise
            raise KeyboardInterrupt from None
