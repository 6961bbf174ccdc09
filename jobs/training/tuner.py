"""The search of a sweep with Ray Tune and Optuna, which goes on from the records of the trials that have ended."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.samplers import TPESampler
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from jobs.training import checkpoints, trials
from jobs.training.placement import TrainingResources
from jobs.training.search_space import fits
from models.config import Choice, LogUniform, Range
from models.family import Family
from models.prepared import Prepared

SECONDS_PER_MINUTE = 60
REDUCTION = 3
"""ASHA lets the best third of the trials go on at each rung, the first of which is a third of all epochs.

At a ninth, the learning rate has hardly warmed up, and random search found better settings with the same core-seconds.
"""
TRIAL_RETRIES = 1
TUNE = "tune"
"""Subdirectory of a sweep for Tune's own state, which nothing reads: it may be cut off, or of another release."""


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

    @property
    def cores(self) -> int:
        """Processors that a trial reserves."""
        return self.resources.num_workers * self.resources.cpus_per_worker

    def table(self) -> list[trials.TrialResult]:
        """The trials so far."""
        return trials.read_table(self.directory, self.metric, cores=self.cores)


class Budget(tune.Stopper):
    """Ends a sweep when its trials have used so many core-seconds, counted from their reports: up to an epoch late."""

    def __init__(self, core_seconds: float, *, cores: int, used: float = 0.0) -> None:
        self._core_seconds, self._cores, self._used = core_seconds, cores, used
        self._seconds: dict[str, float] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Count a report; whether the budget is used up."""
        self._seconds[trial_id] = float(result.get("time_total_s", 0.0))
        return self.stop_all()

    def stop_all(self) -> bool:
        """Whether the budget is used up."""
        return self._used + self._cores * sum(self._seconds.values()) >= self._core_seconds


def tuner_of(
    search: Search, trainable: Callable[[dict[str, Any]], None], logger: trials.TrialLogger
) -> tune.Tuner | None:
    """The Tuner for the trials that a sweep has left, None if there are none.

    Trials that have ended count, and what they scored guides the search; those that were interrupted come first, and
    `trials.adopt` gives them their checkpoints.
    """
    trials.set_aside_damaged(search.directory)
    table = search.table()
    left = search.num_trials - sum(row.has_ended for row in table)
    used = sum(row.core_seconds for row in table)
    if left <= 0 or (search.core_seconds is not None and used >= search.core_seconds):
        return None
    trials.mark_interrupted(search.directory)
    shutil.rmtree(search.directory / TUNE, ignore_errors=True)
    return tune.Tuner(
        tune.with_resources(trainable, _resources(search.resources)),
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.family.metric.mode,
            num_samples=left,
            max_concurrent_trials=search.num_concurrent,
            time_budget_s=None if search.minutes is None else search.minutes * SECONDS_PER_MINUTE,
            search_alg=_optuna(search, table),
            scheduler=_scheduler(search, table),
            # Starting a process per trial takes seconds, longer than a small trial.
            reuse_actors=search.resources.num_workers == 1,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(search.directory),
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            callbacks=[logger],
            stop=None if search.core_seconds is None else Budget(search.core_seconds, cores=search.cores, used=used),
            verbose=0,
        ),
    )


class ResumedASHA(ASHAScheduler):
    """ASHA that knows what trials of an earlier process had reached at its rungs."""

    def remember(self, trial_id: str, scores: Mapping[int, float]) -> None:
        """Enter the scores of a trial by epoch; higher is better."""
        trial = Trial("ended", trial_id=trial_id, stub=True)
        for epoch, score in sorted(scores.items()):
            self._brackets[0].on_result(trial, epoch, score)


def _scheduler(search: Search, table: Sequence[trials.TrialResult]) -> ResumedASHA:
    epochs = max(1, search.config.epochs)
    scheduler = ResumedASHA(
        time_attr="epoch",
        max_t=epochs,
        grace_period=max(1, epochs // REDUCTION),
        reduction_factor=REDUCTION,
    )
    sign = 1 if search.family.metric.mode == "max" else -1
    for row in table:
        if row.state == "finished":
            reports = checkpoints.read_reports(trials.directory_of(search.directory, row.trial_id))
            found = {int(each["epoch"]): sign * each[search.metric] for each in reports if search.metric in each}
            scheduler.remember(row.trial_id, found)
    return scheduler


def _optuna(search: Search, table: Sequence[trials.TrialResult]) -> OptunaSearch:
    space = OptunaSearch.convert_search_space({name: _domain(each) for name, each in search.space.items()})
    found = OptunaSearch(
        space=space,
        metric=search.metric,
        mode=search.family.metric.mode,
        points_to_evaluate=[dict(point) for point in _first(search, table)] or None,
        sampler=TPESampler(
            # Of a resumed sweep too: with the same seed it would draw the same settings again.
            seed=search.config.seed + len(table),
            n_startup_trials=max(4, search.num_trials // 4),
            constant_liar=True,
        ),
    )
    for row in table:
        if row.has_ended and row.sample.keys() == space.keys() and fits(row.sample, search.space):
            is_scored = row.score is not None and math.isfinite(row.score)
            found.add_evaluated_point(row.sample, row.score or 0.0, error=not is_scored)
    return found


def _first(search: Search, table: Sequence[trials.TrialResult]) -> list[Mapping[str, Any]]:
    """The settings to try first: those of interrupted trials; of a new sweep those that `train` would use, and others.

    With these a sweep is never worse than `train`.
    """
    if table:
        return [row.sample for row in table if not row.has_ended and fits(row.sample, search.space)]
    default = {name: getattr(search.config, name) for name in search.space}
    return [*([default] if fits(default, search.space) else []), *search.first]


def _resources(resources: TrainingResources) -> dict[str, float]:
    """What Tune reserves for a trial; one that starts its own workers must not hold the CPUs that these need."""
    if resources.num_workers > 1:
        return {"node:__internal_head__": 0.01}
    return {"cpu": float(resources.cpus_per_worker), **({"gpu": float(resources.gpu)} if resources.gpu else {})}


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
