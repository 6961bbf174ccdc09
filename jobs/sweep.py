"""Search a family's networks and settings with Ray Tune; the best trial's bundle is kept on the sweep's own run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import Parser, UsageError, flag_name
from jobs.cli.signals import sigint_kept
from jobs.cluster import connection
from jobs.tracking.client import BUNDLE, Run
from jobs.tracking.runs import Plan, open_run, reopen_run
from jobs.training import trials
from jobs.training.distributed import WorkerContext
from jobs.training.fit import Workers, ended, fit, log_to_stderr, num_places, place_workers
from jobs.training.loop import run_training
from models.bundle import former_names
from models.config import Choice, LogUniform, Range
from models.family import Family
from models.prepared import Prepared

SECONDS_PER_MINUTE = 60
REDUCTION = 3
"""ASHA lets the best third of the trials go on at each rung."""
TRIAL_RETRIES = 1
TUNE = "tune"
"""Name of Tune's own folder in the directory of the sweep."""


@dataclass(frozen=True)
class Options:
    """Flags of `sweep`."""

    trials: int = 20
    """Settings to try."""
    concurrent: int = 0
    """Trials at the same time; 0 is as many as the cluster has room for."""
    minutes: float | None = None
    """Stop after this time with the best model found until then."""
    workers_per_trial: int = 1
    """Processes that train one trial together; more than 1 only pays for large data."""
    gpu: bool = False
    """Give every worker a GPU."""
    fix: tuple[str, ...] = ()
    """Settings that are not searched, such as network=transformer; so is any flag that differs from its default."""
    name: str | None = None
    """Name of the sweep in MLflow; `sweep FAMILY` when not given."""
    resume: str | None = None
    """Id of an interrupted sweep to continue, with the settings it was started with."""


@dataclass(frozen=True)
class Search:
    """A sweep, resolved."""

    family: Family
    config: Any
    """What every trial starts from."""
    space: Mapping[str, Range]
    data: Prepared
    directory: Path
    num_trials: int
    num_concurrent: int
    workers: Workers
    """What each trial runs on."""
    minutes: float | None

    @property
    def metric(self) -> str:
        """What trials are compared by: the best validation score of a trial so far."""
        return f"best_val_{self.family.metric.name}"


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Search a family's space, keep every trial as a child run and the best bundle on the sweep's run."""
    assert family is not None
    config = config or family.Config()
    # Both refuse mistakes before anything starts.
    _check(options)
    search_space(family, config, options.fix)
    connection.connect(context)
    if options.resume:
        plan, tracked = reopen_run(context, family, config=config, options=options)
        places = place_trials(plan.options)
    else:
        places = place_trials(options)
        name, tags = options.name or f"sweep {family.name}", {"job": "sweep"}
        plan, tracked = open_run(context, family, name=name, config=config, options=options, tags=tags)
    search = _search(family, plan, *places)
    with ended(tracked, f"`shopkeeper sweep {family.name} --resume {plan.run_id}` continues it"):
        with _ctrl_c_as_exception():
            _tuner(search, context, plan).fit()
        return _conclude(search, plan, tracked)


def _check(options: Options) -> None:
    least = {"trials": 1, "concurrent": 0, "workers_per_trial": 1}
    for name, value in least.items():
        if getattr(options, name) < value:
            raise UsageFailure(f"{flag_name(name)} {getattr(options, name)} is less than {value}")
    if options.minutes is not None and not options.minutes > 0:
        raise UsageFailure(f"--minutes {options.minutes} leaves no time; use more than 0")


def search_space(family: Family, config: Any, fix: tuple[str, ...]) -> tuple[dict[str, Range], Any]:
    """The dimensions left to search and the config with what is fixed; raises UsageFailure for unknown settings."""
    usual = family.Config()
    fixed = {name for name, value in vars(config).items() if value != getattr(usual, name)}
    for entry in fix:
        given, _, text = entry.partition("=")
        name, value = _setting(family, given.replace("-", "_"), text)
        config = dataclasses.replace(config, **{name: value})
        fixed.add(name)
    space = {name: dimension for name, dimension in family.space.items() if name not in fixed}
    if not space:
        raise UsageFailure(f"every setting of {family.name} is fixed, there is nothing to search; use `train`")
    return space, config


def place_trials(options: Options) -> tuple[int, Workers]:
    """How many trials run at once, and on what; raises UsageFailure for what the cluster can never hold."""
    per_trial = options.workers_per_trial
    concurrent = options.concurrent or min(options.trials, num_places(1, gpu=options.gpu) // per_trial) or 1
    placed = place_workers(concurrent * per_trial, gpu=options.gpu)
    return concurrent, dataclasses.replace(placed, num=per_trial)


def _search(family: Family, plan: Plan, num_concurrent: int, workers: Workers) -> Search:
    space, config = search_space(family, plan.config, plan.options.fix)
    return Search(
        family=family,
        config=config,
        space=space,
        data=plan.data,
        directory=plan.directory,
        num_trials=plan.options.trials,
        num_concurrent=num_concurrent,
        workers=workers,
        minutes=plan.options.minutes,
    )


def _tuner(search: Search, context: Context, plan: Plan) -> tune.Tuner:
    """A new Tuner, or the one that was interrupted."""
    trainable = tune.with_resources(_trainable(search), _resources(search.workers))
    stored = plan.directory / TUNE
    if tune.Tuner.can_restore(stored):
        return tune.Tuner.restore(str(stored), trainable=trainable, resume_unfinished=True, restart_errored=False)
    mode, epochs = search.family.metric.mode, max(1, search.config.epochs)
    logger = trials.TrialLogger(context, search.family.name, plan.run_id, plan.directory)
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
            # A fresh process for each trial costs seconds, which is more than a small trial.
            reuse_actors=search.workers.num == 1,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(plan.directory),
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            callbacks=[logger],
            verbose=0,
        ),
    )


def _optuna(search: Search) -> OptunaSearch:
    usual = {name: getattr(search.config, name) for name in search.space}
    return OptunaSearch(
        metric=search.metric,
        mode=search.family.metric.mode,
        # The first trial is what `train` would do, so a sweep cannot end below it.
        points_to_evaluate=[usual] if all(_inside(usual[name], search.space[name]) for name in usual) else None,
        sampler=TPESampler(
            seed=search.config.seed, n_startup_trials=max(4, search.num_trials // 4), constant_liar=True
        ),
    )


def _trainable(search: Search) -> Callable[[dict[str, Any]], None]:
    def trial(sample: dict[str, Any]) -> None:
        log_to_stderr()
        directory = trials.directory_of(search.directory, tune.get_context().get_trial_id())
        config, workers = dataclasses.replace(search.config, **sample), search.workers
        if workers.num > 1:
            from ray.tune.integration.ray_train import TuneReportCallback

            callbacks = [TuneReportCallback()]  # type: ignore[no-untyped-call]
            fit(
                search.family,
                config=config,
                data=search.data,
                directory=directory,
                workers=workers,
                callbacks=callbacks,
            )
            return
        torch.set_num_threads(workers.cpus_each)
        worker = WorkerContext(device="cuda" if workers.gpu else "cpu")
        run_training(
            search.family, config=config, data=search.data, directory=directory, worker=worker, report=tune.report
        )

    return trial


def _resources(workers: Workers) -> dict[str, float]:
    """What Tune reserves for a trial; one that starts workers of its own must not hold what these need."""
    if workers.num > 1:
        return {"node:__internal_head__": 0.01}
    return {"cpu": float(workers.cpus_each), **({"gpu": 1.0} if workers.gpu else {})}


def _conclude(search: Search, plan: Plan, tracked: Run) -> Outcome:
    """Keep the best trial's bundle, the table and the picture; remove what only training needed."""
    cores = search.workers.num * search.workers.cpus_each
    table = trials.read_table(plan.directory, search.metric, cores=cores)
    good = [row for row in table if row.score is not None]
    if not good:
        errors = [row.error for row in table if row.error]
        raise Failure(
            f"no trial of {len(table)} gave a model; the first error: {errors[0]}"
            if errors
            else f"no trial finished an epoch in {search.minutes} minutes; raise --minutes"
        )
    best = good[0]
    for row in good[1:]:
        assert row.score is not None and best.score is not None
        best = row if search.family.metric.better(row.score, best.score) else best
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
    return Outcome(run_id=plan.run_id, metrics=best.metrics, details=details)


def _setting(family: Family, given: str, text: str) -> tuple[str, Any]:
    """Name and value of the field that `--fix given=text` names, read as the flag of that name would be."""
    fields = {field.name: field for field in dataclasses.fields(family.Config)}
    name, _ = former_names(family.Config).get(given, (given, ""))
    if name not in fields or not text:
        raise UsageFailure(f"--fix {given}={text} does not name a setting; there are {', '.join(sorted(fields))}")
    word = f"{flag_name(given)}={text}"
    if isinstance(fields[name].default, bool):
        word = flag_name(given if text.lower() in ("true", "yes", "1") else f"no_{given}")
    try:
        prog = f"shopkeeper sweep {family.name}"
        (config,) = Parser({"Settings": family.Config}, prog=prog, description="").read([word])
    except UsageError as error:
        raise UsageFailure(f"--fix {given}={text}: {error}") from error
    return name, getattr(config, name)


def _domain(dimension: Range) -> Domain:
    domain: Domain  # Tune says so in its documentation only
    match dimension:
        case Choice(options):
            domain = tune.choice(list(options))
        case LogUniform(low, high):
            domain = tune.loguniform(low, high)
        case _:
            domain = tune.uniform(dimension.low, dimension.high)
    return domain


def _inside(value: Any, dimension: Range) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.options
    return bool(dimension.low <= value <= dimension.high) and math.isfinite(value)


@contextmanager
def _ctrl_c_as_exception() -> Iterator[None]:
    """Tune answers Ctrl-C by saving its state and returning as if it were done; here it is a KeyboardInterrupt too."""
    with sigint_kept() as is_in_place:
        yield
        # Tune's own handler stays where it was not needed, and gives way to the one before it where it was.
        if is_in_place():
            raise KeyboardInterrupt
