"""`shopkeeper train FAMILY`: trains a network and logs the best epoch's model with its MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Outcome
from jobs.cluster import connection
from jobs.tracking.client import Run
from jobs.tracking.runs import Plan, opened, read_plan
from jobs.training.alone import fit_alone
from jobs.training.logged_bundle import log_best
from jobs.training.loop import Result
from jobs.training.placement import Nodes, TrainingResources, Workers
from jobs.training.recording import EpochRecorder, record_final_status
from models.family import Family


@dataclass(frozen=True)
class Options:
    """Flags of `train`."""

    workers: str = "1"
    """Data-parallel training processes; MIN:MAX trains on as many as there is room for, and more or fewer as nodes come
    and go. The batch size is that of all workers together."""
    gpu: bool = False
    """Reserve a GPU for every worker."""
    wait_minutes: float | None = None
    """Longest wait for the workers' CPUs and GPUs; unset, there is no limit on a cluster named by --address, and four
    minutes on this machine."""
    name: str | None = None
    """Name of the MLflow run; `train FAMILY` if unset."""
    resume: str | None = None
    """Id of an interrupted run to resume, with its original settings."""

    def __post_init__(self) -> None:
        Workers.parse(self.workers)
        object.__setattr__(self, "workers", str(self.workers))  # runs until release 0.4 have a number
        if self.wait_minutes is not None and not self.wait_minutes > 0:
            raise ValueError(f"--wait-minutes {self.wait_minutes:g} leaves no time; use more than 0")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Train a network and log the bundle of its best epoch as an artifact of the tracked run.

    One worker without a GPU trains in this process, unless there is a cluster already.
    """
    assert family is not None
    config = config or family.Config()
    stored = read_plan(context, family, config=config, options=options) if options.resume else None
    resources = _resources(context, stored.options if stored else options)
    tags = {"world_size": str(resources.num_workers if resources else 1)}
    name = options.name or f"train {family.name}"
    with opened(context, family, stored, name=name, config=config, options=options, tags=tags) as (plan, tracked):
        resume = context.command(f"train {family.name} --resume {plan.run_id}")
        with record_final_status(tracked, f"`{resume}` resumes it", directory=plan.directory):
            result = _fit(context, family, plan, tracked, resources)
            return _log_result(plan, tracked, result)


def _resources(context: Context, options: Options) -> TrainingResources | None:
    """What the workers reserve on the cluster; None for one that trains in this process."""
    workers = Workers.parse(options.workers)
    if workers == Workers(1) and not options.gpu and not connection.is_there(context):
        return None
    connection.connect(context)
    return Nodes.of_cluster().allocate(workers, gpu=options.gpu)


def _fit(context: Context, family: Family, plan: Plan, tracked: Run, resources: TrainingResources | None) -> Result:
    settings: dict[str, Any] = {"config": plan.config, "data": plan.data, "directory": plan.directory}
    if resources is None:
        return fit_alone(family, **settings, recorder=EpochRecorder(tracked, plan.directory))
    from jobs.cluster.waiting import check_visible  # with Ray Train, which takes a second to import
    from jobs.training.fit import EpochLogger, fit

    check_visible(plan.directory)
    return fit(
        family,
        **settings,
        resources=resources,
        callbacks=[EpochLogger(context, plan.run_id, plan.directory)],
        wait_s=None if plan.options.wait_minutes is None else plan.options.wait_minutes * 60,
    )


def _log_result(plan: Plan, tracked: Run, result: Result) -> Outcome:
    log_best(tracked, plan.directory)
    tracked.log_metrics({"best_epoch": result.best_epoch}, step=result.epochs)
    details = {"best_epoch": result.best_epoch, "epochs": result.epochs, "bundle": str(result.best)}
    return Outcome(run_id=plan.run_id, metrics=result.metrics, details=details)
