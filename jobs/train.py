"""Train one network: the only TorchTrainer of the project, around the one training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Outcome
from jobs.cluster import connection
from jobs.tracking.client import BUNDLE, Run
from jobs.tracking.runs import Plan, open_run, reopen_run
from jobs.training.fit import EpochLogger, ended, fit, place_workers
from jobs.training.loop import Result
from models.family import Family


@dataclass(frozen=True)
class Options:
    """Flags of `train`."""

    workers: int = 1
    """Processes that train together, each on its share of the data."""
    gpu: bool = False
    """Give every worker a GPU."""
    name: str | None = None
    """Name of the run in MLflow; `train FAMILY` when not given."""
    resume: str | None = None
    """Id of an interrupted run to continue, with the settings it was started with."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Train a network of a family and keep its best epoch's bundle with the tracked run."""
    assert family is not None
    config = config or family.Config()
    connection.connect(context)
    if options.resume:
        plan, tracked = reopen_run(context, family, config=config, options=options)
        workers = place_workers(plan.options.workers, gpu=plan.options.gpu)
    else:
        workers = place_workers(options.workers, gpu=options.gpu)
        tags = {"world_size": str(workers.num)}
        name = options.name or f"train {family.name}"
        plan, tracked = open_run(context, family, name=name, config=config, options=options, tags=tags)
    with ended(tracked, f"`shopkeeper train {family.name} --resume {plan.run_id}` continues it"):
        logger = EpochLogger(context, plan.run_id, plan.directory)
        result = fit(
            family,
            config=plan.config,
            data=plan.data,
            directory=plan.directory,
            workers=workers,
            callbacks=[logger],
        )
        return _keep(plan, tracked, result)


def _keep(plan: Plan, tracked: Run, result: Result) -> Outcome:
    tracked.log_artifacts(result.best, BUNDLE)
    tracked.log_metrics({"best_epoch": result.best_epoch}, step=result.epochs)
    details = {"best_epoch": result.best_epoch, "epochs": result.epochs, "bundle": str(result.best)}
    return Outcome(run_id=plan.run_id, metrics=result.metrics, details=details)
