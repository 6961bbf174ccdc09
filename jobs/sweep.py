"""`shopkeeper sweep FAMILY`: hyperparameter search with Ray Tune; the best trial's model goes to the sweep's run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from ray import tune

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import UNSPLIT, check_at_least
from jobs.cli.signals import sigint_restored
from jobs.cluster import connection
from jobs.cluster.waiting import check_visible
from jobs.tracking.client import BUNDLE, Run
from jobs.tracking.runs import Plan, opened, read_plan
from jobs.training import trials
from jobs.training.distributed import WorkerContext
from jobs.training.fit import fit, log_to_stderr
from jobs.training.loop import run_training
from jobs.training.placement import Nodes, TrainingResources, Workers
from jobs.training.recording import record_final_status
from jobs.training.search_space import earlier_settings, search_space
from jobs.training.tuner import Search, tuner_of
from models.family import Family

BUDGET = ("trials", "minutes", "core_seconds")
"""Flags that may differ when a sweep is resumed; more of them adds to a finished one."""


@dataclass(frozen=True)
class Options:
    """Flags of `sweep`."""

    trials: int = 20
    """Number of trials."""
    concurrent: int = 0
    """Maximum number of concurrent trials; 0 uses the whole cluster."""
    minutes: float | None = None
    """Time budget; the search then stops and keeps the best model so far."""
    workers_per_trial: int = 1
    """Data-parallel training processes per trial; more than 1 pays off for large data only."""
    gpu: bool = False
    """Reserve a GPU for every worker."""
    gpu_share: float = 1.0
    """Share of a GPU to reserve for it with --gpu; with 0.25, four trials of a small network share one."""
    fix: tuple[str, ...] = ()
    """Hyperparameters excluded from the search, such as network=transformer; a flag set to a non-default value is
    fixed too."""
    space: tuple[str, ...] = field(default=(), metadata=UNSPLIT)
    """Range to search in place of the family's, or in addition: NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,C, such as
    learning_rate=log:1e-4:1e-2. Repeat the flag for several."""
    metric: str | None = None
    """Metric to optimise in place of the family's own, for early stopping too."""
    warm_start: str | None = None
    """Run id of an earlier sweep, whose best settings are tried first."""
    core_seconds: float | None = None
    """Budget of processor time: no trial is started or continued past it. Processors that a trial reserves count from
    its first to its last epoch."""
    name: str | None = None
    """Name of the sweep's MLflow run; `sweep FAMILY` if unset."""
    resume: str | None = None
    """Run id of a sweep to resume with its original settings; --trials, --minutes and --core-seconds may be others, and
    add trials to a finished sweep."""

    def __post_init__(self) -> None:
        check_at_least(self, trials=1, concurrent=0, workers_per_trial=1)
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"--minutes {self.minutes} leaves no time; use more than 0")
        if not 0 < self.gpu_share <= 1 or (self.workers_per_trial > 1 and self.gpu_share < 1):
            raise ValueError(
                f"--gpu-share {self.gpu_share:g}: use more than 0, up to 1; several workers of a trial need one each"
            )
        if self.gpu_share < 1 and not self.gpu and not self.resume:
            raise ValueError(f"--gpu-share {self.gpu_share:g} shares a GPU; add --gpu")
        if self.core_seconds is not None and not self.core_seconds > 0:
            raise ValueError(f"--core-seconds {self.core_seconds:g} leaves no time; use more than 0")


def check(family: Family, options: Options, config: Any | None) -> None:
    """Raise UsageFailure for settings that cannot be searched; the command line calls it, for a dry run too."""
    search_space(with_metric(family, options.metric), config or family.Config(), options.fix, options.space)


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Search hyperparameters; each trial becomes a child run, and the best model an artifact of the sweep's run."""
    assert family is not None
    config = config or family.Config()
    family = with_metric(family, options.metric)
    earlier: Sequence[Mapping[str, Any]] = ()
    if options.warm_start and not options.resume:
        space, _ = search_space(family, config, options.fix, options.space)
        earlier = earlier_settings(context, family, options.warm_start, space)
    stored = read_plan(context, family, config=config, options=options, changeable=BUDGET) if options.resume else None
    chosen = stored.options if stored else options
    # Of a trial that is stopped while several workers train it, Ray Train removes the placement group by the State API.
    connection.connect(context, has_states=chosen.workers_per_trial > 1)
    allocation = allocate_trials(chosen)
    family = with_metric(family, chosen.metric)
    name, tags = options.name or f"sweep {family.name}", {"job": "sweep"}
    with opened(context, family, stored, name=name, config=config, options=options, tags=tags) as (plan, tracked):
        search = _search(family, plan, *allocation, earlier)
        resume = context.command(f"sweep {family.name} --resume {plan.run_id}")
        with record_final_status(tracked, f"`{resume}` resumes it", directory=plan.directory):
            _run_trials(context, search, plan)
            return _conclude(search, plan, tracked)


def _run_trials(context: Context, search: Search, plan: Plan) -> None:
    check_visible(plan.directory)
    logger = trials.TrialLogger(context, search.family, plan, search.config, metric=search.metric)
    if tuner := tuner_of(search, _trainable(search), logger):
        with _ctrl_c_as_exception():
            tuner.fit()
    else:
        log.info("nothing is left of its budget; a larger --trials or --core-seconds adds to it")


def allocate_trials(options: Options) -> tuple[int, TrainingResources]:
    """The number of concurrent trials and the resources of each; raises UsageFailure if the cluster is too small."""
    per_trial, gpu = options.workers_per_trial, options.gpu_share if options.gpu else 0.0
    nodes = Nodes.of_cluster()
    concurrent = options.concurrent or min(options.trials, nodes.slots(1, gpu=gpu) // per_trial) or 1
    allocated = nodes.allocate(Workers(concurrent * per_trial), gpu=gpu)
    return concurrent, dataclasses.replace(allocated, num_workers=per_trial)


def with_metric(family: Family, name: str | None) -> Family:
    """The family with another of its metrics as the one that counts; raises UsageFailure for an unknown one."""
    if name is None:
        return family
    known = {metric.name: metric for metric in family.all_metrics}
    if name not in known:
        raise UsageFailure(f"--metric {name}: {family.name} has {', '.join(known)}")
    return dataclasses.replace(family, metric=known[name])


def _search(
    family: Family,
    plan: Plan,
    num_concurrent: int,
    resources: TrainingResources,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Search:
    schema = plan.data.schema(family.Schema, family.files)
    default = family.resolve(family.Config(), schema)
    space, config = search_space(family, plan.config, plan.options.fix, plan.options.space, default=default)
    config = family.resolve(config, schema)
    return Search(
        family=family,
        config=config,
        space=space,
        data=plan.data,
        directory=plan.directory,
        num_trials=plan.options.trials,
        num_concurrent=num_concurrent,
        resources=resources,
        minutes=plan.options.minutes,
        core_seconds=plan.options.core_seconds,
        first=[{name: settings[name] for name in space} for settings in earlier],
    )


def _trainable(search: Search) -> Callable[[dict[str, Any]], None]:
    def trial(sample: dict[str, Any]) -> None:
        trial_id = tune.get_context().get_trial_id()
        log_to_stderr(f"trial {trial_id}")
        trials.adopt(search.directory, trial_id, sample)
        directory = trials.directory_of(search.directory, trial_id)
        config, resources = dataclasses.replace(search.config, **sample), search.resources
        if resources.num_workers > 1:
            callbacks = [_report_callback(search)]
            fit(
                search.family,
                config=config,
                data=search.data,
                directory=directory,
                resources=resources,
                callbacks=callbacks,
                log_name=f"trial {trial_id}",
            )
            return
        torch.set_num_threads(resources.cpus_per_worker)
        worker = WorkerContext(device="cuda" if resources.gpu else "cpu")
        run_training(
            search.family,
            config=config,
            data=search.data,
            directory=directory,
            worker=worker,
            report=lambda metrics: tune.report(with_score(search, metrics)),
        )

    return trial


def with_score(search: Search, metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """An epoch's report for Tune, which requires the metric of a trial: the worst number while it is undefined."""
    worst = -math.inf if search.family.metric.mode == "max" else math.inf
    return {search.metric: worst, **metrics}


def _report_callback(search: Search) -> Any:
    from ray.tune.integration.ray_train import TuneReportCallback

    class ReportWithScore(TuneReportCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            super().after_report(run_context, [with_score(search, each) for each in metrics], checkpoint)

    return ReportWithScore()  # type: ignore[no-untyped-call]


def _conclude(search: Search, plan: Plan, tracked: Run) -> Outcome:
    """Log the best trial's bundle, the table and the plot of the search; delete the other trials' files."""
    table = search.table()
    best = trials.best_of(table, search.family.metric)
    if best is None:
        errors = [row.error for row in table if row.error]
        if not errors and any(row.epochs for row in table):
            raise Failure(f"{search.family.metric.name} is undefined in every trial; check `evaluate` and the data")
        raise Failure(
            f"all {len(table)} trials failed; the first error: {errors[0]}"
            if errors
            else "no trial finished an epoch in the budget; raise --minutes or --core-seconds"
        )
    trials.write_report(plan.directory / "search", table, search.space, search.family.metric)
    tracked.log_artifacts(plan.directory / "search", "search")
    tracked.log_artifacts(best.bundle, BUNDLE)
    failed = sum(row.error is not None for row in table)
    numbers = {"num_trials": len(table), "num_failed": failed, "core_seconds": sum(row.core_seconds for row in table)}
    tracked.log_metrics({**best.metrics, search.metric: best.score or 0.0, **numbers}, step=0)
    tracked.set_tags({"best_trial": best.trial_id, **{f"best_{name}": str(v) for name, v in best.sample.items()}})
    trials.remove_losers(plan.directory, best)
    log.info("best of %d trials (%d failed): %s", len(table), failed, best.sample)
    details = {"best_trial": best.trial_id, "best_config": best.sample, **numbers, "bundle": str(best.bundle)}
    table_text = trials.table_text(table, search.family.metric)
    return Outcome(run_id=plan.run_id, metrics=best.metrics, details=details, table=table_text)


@contextmanager
def _ctrl_c_as_exception() -> Iterator[None]:
    """Turns Ctrl-C into a KeyboardInterrupt; Tune would save its state and return as if the search had finished."""
    with sigint_restored() as is_in_place:
        yield
        # Tune leaves its handler installed unless Ctrl-C came; then it puts the previous one back.
        if is_in_place():
            raise KeyboardInterrupt
