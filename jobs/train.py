"""`shopkeeper train FAMILY`: trains a network and logs the best epoch's model with its MLflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Outcome
from jobs.cluster import connection
from jobs.tracking.client import Run
from jobs.tracking.runs import Plan, open_run, reopen_run
from jobs.training.fit import EpochLogger, allocate_workers, fit, record_final_status
from jobs.training.logged_bundle import log_best
from jobs.training.loop import Result
from models.family import Family


@dataclass(frozen=True)
class Options:
    """Flags of `train`."""

    workers: int = 1
    """Data-parallel training processes."""
    gpu: bool = False
    """Reserve a GPU for every worker."""
    name: str | None = None
    """Name of the MLflow run; `train FAMILY` if unset."""
    resume: str | None = None
    """Id of an interrupted run to resume, with its original settings."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Train a network and log the bundle of its best epoch as an artifact of the tracked run."""
    assert family is not None
    config = config or family.Config()
    connection.connect(context)
    if options.resume:
        plan, tracked = reopen_run(context, family, config=config, options=options)
        resources = allocate_workers(plan.options.workers, gpu=plan.options.gpu)
    else:
        resources = allocate_workers(options.workers, gpu=options.gpu)
        tags = {"world_size": str(resources.num_workers)}
        name = options.name or f"train {family.name}"
        plan, tracked = open_run(context, family, name=name, config=config, options=options, tags=tags)
    resume = context.command(f"train {family.name} --resume {plan.run_id}")
    with record_final_status(tracked, f"`{resume}` resumes it"):
        logger = EpochLogger(context, plan.run_id, plan.directory)
        result = fit(
            family,
            config=plan.config,
            data=plan.data,
            directory=plan.directory,
            resources=resources,
            callbacks=[logger],
        )
        return _log_result(plan, tracked, result)


def _log_result(plan: Plan, tracked: Run, result: Result) -> Outcome:
    log_best(tracked, plan.directory)
    tracked.log_metrics({"best_epoch": result.best_epoch}, step=result.epochs)
    details = {"best_epoch": result.best_epoch, "epochs": result.epochs, "bundle": str(result.best)}
    return Outcome(run_id=plan.run_id, metrics=result.metrics, details=details)
