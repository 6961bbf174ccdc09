"""Distributed training with Ray Train: the only TorchTrainer of the project, around the training loop."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from jobs.cli.context import Context, Failure, log
from jobs.cli.library_log import MarkedFormatter
from jobs.cli.signals import sigint_restored
from jobs.cluster import connection
from jobs.cluster.waiting import Patience, waiting
from jobs.tracking.client import Tracking
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, TrainingDiverged, run_training
from jobs.training.placement import TrainingResources
from jobs.training.recording import EpochRecorder, summarise_error
from models.errors import is_disk_full
from models.family import Family
from models.prepared import Prepared

MAX_FAILURES = 3
"""Restarts of a training run after lost workers, before it fails."""


class EpochLogger(UserCallback):
    """Logs epochs and the best model from the Train controller, even when that is restarted."""

    def __init__(self, context: Context, run_id: str, directory: Path) -> None:
        self._context, self._run_id, self._directory = context, run_id, directory
        self._recorder: EpochRecorder | None = None  # opened lazily, in the controller process

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:
        """Called by Ray when every worker has reported an epoch."""
        if self._recorder is None:
            self._recorder = EpochRecorder(Tracking(self._context).resume_run(self._run_id), self._directory)
        self._recorder.after_epoch(metrics[0]["epoch"])


def fit(
    family: Family,
    *,
    config: Any,
    data: Prepared,
    directory: Path,
    resources: TrainingResources,
    callbacks: Sequence[UserCallback] = (),
    log_name: str = "",
    wait_s: float | None = None,
) -> Result:
    """Run the training loop on Ray workers, resuming from the newest checkpoint in `directory`.

    The messages of the workers begin with `log_name`. Survives lost workers; waits for resources for up to `wait_s`.
    Ray must be connected. Raises ValueError and TrainingDiverged like the loop, Failure after too many lost workers.
    """
    patience = Patience.of(wait_s, elastic=resources.elastic is not None, max_failures=MAX_FAILURES)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "log_name": log_name,
            "needs_gpu": bool(resources.gpu),
            "settings": {"family": family, "config": config, "data": data, "directory": directory},
        },
        scaling_config=_scaling(resources),
        run_config=RunConfig(
            # A unique name: Ray would treat a run of the same name as finished. Our checkpoints are in `directory`.
            name=f"{family.name}-{directory.name}-{uuid.uuid4().hex[:8]}",
            storage_path=str((directory / "ray").absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=patience.max_failures),
            callbacks=list(callbacks),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with _ctrl_c_as_exception(), waiting(str(resources), resources.per_worker, patience.attempt_s):
        try:
            return _unwrap_result(trainer.fit())
        except TrainingFailedError as error:
            raise Failure(f"training failed after {MAX_FAILURES} retries: {summarise_error(error)}") from error


def _scaling(resources: TrainingResources) -> ScalingConfig:
    workers = resources.elastic or resources.num_workers
    return ScalingConfig(num_workers=workers, use_gpu=bool(resources.gpu), resources_per_worker=resources.per_worker)


def log_to_stderr(name: str = "") -> None:
    """Send a worker's log messages to its stderr, which Ray forwards to the driver, marked as ours.

    They begin with `name`, such as that of a trial, which may change while a process is used for several.
    """
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs every report in full through the root logger
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
    for handler in log.handlers:
        handler.setFormatter(MarkedFormatter(f"{name}: %(message)s" if name else None))


def _unwrap_result(trained: object) -> Result:
    """The result of the first worker; raises an exception that it returned as a value."""
    assert isinstance(trained, TrainResult)
    returned: object = trained.return_value
    if isinstance(returned, Exception):
        raise returned
    assert isinstance(returned, Result)
    return returned


def _train_worker(task: dict[str, Any]) -> Result | Exception:
    """The training function of one worker; returns errors that a retry would not cure."""
    log_to_stderr(task["log_name"])
    torch.set_num_threads(int(connection.own_resources().get("CPU", 1)))
    session = ray.train.get_context()
    _check_node(task["settings"]["directory"], needs_gpu=task["needs_gpu"])
    device = str(ray.train.torch.get_device())
    worker = WorkerContext(rank=session.get_world_rank(), world_size=session.get_world_size(), device=device)
    try:
        return run_training(**task["settings"], worker=worker, report=ray.train.report)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and not is_disk_full(error):
            raise
        # Ray would retry a raised error in vain. A worker that fails alone must raise, or the others wait for it.
        if worker.world_size == 1 or isinstance(error, TrainingDiverged):
            return error
        raise


def _check_node(directory: Path, *, needs_gpu: bool) -> None:
    """Raise RuntimeError if this node cannot train: it may have been started later than the run."""
    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not directory.is_dir():
        raise RuntimeError(f"the node {node} does not see {directory}: mount the store there under the same path")
    if needs_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            f"torch {torch.__version__} on the node {node} finds no GPU: install its CUDA wheel there, "
            "`make setup TORCH=cuda`, or leave out --gpu"
        )


@contextmanager
def _ctrl_c_as_exception() -> Iterator[None]:
    """Turns Ctrl-C into a KeyboardInterrupt; Ray Train would exit the process and leave its signal handler behind."""
    with sigint_restored():
        try:
            yield
        except SystemExit:
            if threading.current_thread() is not threading.main_thread():
                raise
            raise KeyboardInterrupt from None
