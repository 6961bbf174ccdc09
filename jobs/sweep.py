"""`shopkeeper sweep FAMILY`: hyperparameter search with Ray Tune; the best trial's model goes to the sweep's run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import UNSPLIT, check_at_least
from jobs.cli.signals import sigint_restored
from jobs.cluster import connection
from jobs.cluster.waiting import check_visible
from jobs.tracking.client import BUNDLE, Run, Tracking
from jobs.tracking.runs import Plan, open_run, read_plan
from jobs.training import trials
from jobs.training.distributed import WorkerContext
from jobs.training.fit import fit, log_to_stderr, record_final_status
from jobs.training.loop import run_training
from jobs.training.placement import Nodes, TrainingResources, Workers
from jobs.training.search_space import earlier_settings, is_inside, search_space
from models.config import Choice, LogUniform, Range
from models.family import Family
from models.prepared import Prepared

SECONDS_PER_MINUTE = 60
REDUCTION = 3
"""ASHA promotes the best third of the trials at each rung."""
TRIAL_RETRIES = 1
TUNE = "tune"
"""Subdirectory of a sweep for Tune's own state."""


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
    """Run id of an interrupted sweep to resume, with its original settings."""

    def __post_init__(self) -> None:
        check_at_least(self, trials=1, concurrent=0, workers_per_trial=1)
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"--minutes {self.minutes} leaves no time; use more than 0")
        if not 0 < self.gpu_share <= 1 or (self.workers_per_trial > 1 and self.gpu_share < 1):
            raise ValueError(
                f"--gpu-share {self.gpu_share:g}: use more than 0, up to 1; several workers of a trial need one each"
            )
        if self.core_seconds is not None and not self.core_seconds > 0:
            raise ValueError(f"--core-seconds {self.core_seconds:g} leaves no time; use more than 0")


@dataclass(frozen=True)
class Search:
    """The resolved settings of a sweep."""

    family: Family
    config: Any
    """Base config of every trial."""
    space: Mapping[str, Range]
    data: Prepared
    directory: Path
    num_trials: int
    num_concurrent: int
    resources: TrainingResources
    """Workers and their resources per trial."""
    minutes: float | None
    core_seconds: float | None = None
    first: Sequence[Mapping[str, Any]] = ()
    """Settings to try before the search chooses others, besides those that `train` would use."""

    @property
    def metric(self) -> str:
        """The metric that ranks trials: the best validation score of a trial so far."""
        return f"best_val_{self.family.metric.name}"


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Search hyperparameters; each trial becomes a child run, and the best model an artifact of the sweep's run."""
    assert family is not None
    config = config or family.Config()
    family = with_metric(family, options.metric)
    search_space(family, config, options.fix, options.space)  # rejects invalid settings before anything starts
    connection.connect(context)
    if options.resume:
        plan = read_plan(context, family, config=config, options=options)
        family = with_metric(family, plan.options.metric)
        search = _search(context, family, plan, *allocate_trials(plan.options))
        tuner = _tuner(search, context, plan)  # before the run is reopened, for a sweep of another release fails here
        tracked = Tracking(context).resume_run(plan.run_id, reopen=True)
    else:
        allocation = allocate_trials(options)
        name, tags = options.name or f"sweep {family.name}", {"job": "sweep"}
        plan, tracked = open_run(context, family, name=name, config=config, options=options, tags=tags)
        search = _search(context, family, plan, *allocation)
        tuner = _tuner(search, context, plan)
    resume = context.command(f"sweep {family.name} --resume {plan.run_id}")
    with record_final_status(tracked, f"`{resume}` resumes it"):
        check_visible(plan.directory)
        with _ctrl_c_as_exception():
            tuner.fit()
        return _conclude(search, plan, tracked)


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


def _search(context: Context, family: Family, plan: Plan, num_concurrent: int, resources: TrainingResources) -> Search:
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
        first=earlier_settings(context, family, plan.options.warm_start, space) if plan.options.warm_start else (),
    )


def _tuner(search: Search, context: Context, plan: Plan) -> tune.Tuner:
    """A new Tuner, or the restored one of an interrupted sweep."""
    trainable = tune.with_resources(_trainable(search), _resources(search.resources))
    logger = trials.TrialLogger(context, search.family, plan, search.config, metric=search.metric)
    if tune.Tuner.can_restore(plan.directory / TUNE):
        return _restored_tuner(search, plan, trainable, logger)
    mode, epochs = search.family.metric.mode, max(1, search.config.epochs)
    return tune.Tuner(
        trainable,
        param_space={name: _domain(dimension) for name, dimension in search.space.items()},
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=mode,
            num_samples=search.num_trials,
            max_concurrent_trials=search.num_concurrent,
            time_budget_s=None if search.minutes is None else search.minutes * SECONDS_PER_MINUTE,
            search_alg=_optuna(search),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=epochs,
                grace_period=max(1, epochs // REDUCTION**2),
                reduction_factor=REDUCTION,
            ),
            # Starting a process per trial takes seconds, longer than a small trial.
            reuse_actors=search.resources.num_workers == 1,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(plan.directory),
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            callbacks=[logger],
            stop=None if search.core_seconds is None else Budget(search.core_seconds, search.resources),
            verbose=0,
        ),
    )


def _restored_tuner(search: Search, plan: Plan, trainable: Any, logger: trials.TrialLogger) -> tune.Tuner:
    """The Tuner of an interrupted sweep; raises Failure if a release with other modules has started it."""
    stored = str(plan.directory / TUNE)
    try:
        tuner = tune.Tuner.restore(stored, trainable=trainable, resume_unfinished=True, restart_errored=False)
        if tuner._local_tuner is not None:
            # The stored one has the paths of the store, which may have been moved; Ray takes no other by its interface.
            tuner._local_tuner.get_run_config().callbacks = [logger]
        return tuner
    except (ImportError, AttributeError) as error:  # Tune pickles our callback by the name of its module
        best = trials.best_of(_read_trials(search, plan), search.family.metric)
        kept = f"; the best model so far is {best.bundle}, which --model of other verbs accepts" if best else ""
        raise Failure(
            f"sweep {plan.run_id} was started by another release and cannot be resumed ({error}): start a new sweep. "
            f"The metrics of its trials are kept in MLflow{kept}"
        ) from error


class Budget(tune.Stopper):
    """Ends a sweep when its trials have used so many core-seconds, counted from their reports: up to an epoch late."""

    def __init__(self, core_seconds: float, resources: TrainingResources) -> None:
        self._core_seconds, self._cores = core_seconds, resources.num_workers * resources.cpus_per_worker
        self._seconds: dict[str, float] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Count a report; whether the budget is used up."""
        self._seconds[trial_id] = float(result.get("time_total_s", 0.0))
        return self.stop_all()

    def stop_all(self) -> bool:
        """Whether the budget is used up."""
        return self._cores * sum(self._seconds.values()) >= self._core_seconds


def _optuna(search: Search) -> OptunaSearch:
    default = {name: getattr(search.config, name) for name in search.space}
    is_in_space = all(is_inside(default[name], dimension) for name, dimension in search.space.items())
    return OptunaSearch(
        metric=search.metric,
        mode=search.family.metric.mode,
        # The first trial uses the config that `train` would use, so a sweep is never worse than `train`.
        points_to_evaluate=[*([default] if is_in_space else []), *map(dict, search.first)] or None,
        sampler=TPESampler(
            seed=search.config.seed, n_startup_trials=max(4, search.num_trials // 4), constant_liar=True
        ),
    )


def _trainable(search: Search) -> Callable[[dict[str, Any]], None]:
    def trial(sample: dict[str, Any]) -> None:
        trial_id = tune.get_context().get_trial_id()
        log_to_stderr(f"trial {trial_id}")
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


def _resources(resources: TrainingResources) -> dict[str, float]:
    """What Tune reserves for a trial; one that starts its own workers must not hold the CPUs that these need."""
    if resources.num_workers > 1:
        return {"node:__internal_head__": 0.01}
    return {"cpu": float(resources.cpus_per_worker), **({"gpu": float(resources.gpu)} if resources.gpu else {})}


def _conclude(search: Search, plan: Plan, tracked: Run) -> Outcome:
    """Log the best trial's bundle, the table and the plot of the search; delete the other trials' files."""
    table = _read_trials(search, plan)
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


def _read_trials(search: Search, plan: Plan) -> list[trials.TrialResult]:
    cores = search.resources.num_workers * search.resources.cpus_per_worker
    return trials.read_table(plan.directory, search.metric, cores=cores)


def _domain(dimension: Range) -> Domain:
    domain: Domain  # Tune's functions are not annotated
    match dimension:
        case Choice(options):
            domain = tune.choice(list(options))
        case LogUniform(low, high):
            domain = tune.loguniform(low, high)
        case _:
            domain = tune.uniform(dimension.low, dimension.high)
    return domain


@contextmanager
def _ctrl_c_as_exception() -> Iterator[None]:
    """Turns Ctrl-C into a KeyboardInterrupt; Tune would save its state and return as if the search had finished."""
    with sigint_restored() as is_in_place:
        yield
        # Tune leaves its handler installed unless Ctrl-C came; then it puts the previous one back.
        if is_in_place():
            raise KeyboardInterrupt
