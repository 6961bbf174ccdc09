"""The trials of a sweep: child runs in MLflow while it runs, a table and a plot of the search at its end."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from jobs.cli.context import Context, DependencyDown, log
from jobs.cli.text_table import aligned
from jobs.tracking.client import Run, Status, Tracking
from jobs.tracking.runs import Plan, dataset_of, source_tags
from jobs.training import checkpoints
from jobs.training.recording import log_epochs, summarise_error
from models import FAMILIES
from models.config import Choice, LogUniform, Range
from models.errors import BundleRejected, is_disk_full
from models.family import Family
from models.files import write_text
from models.json_files import read_json
from models.metric import Metric

TrialState = Literal["running", "interrupted", "finished", "failed"]
"""A trial is running until it ends, also if its sweep was killed; resuming the sweep makes it interrupted."""
RECORD = "trial.json"
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial."""

    trial_id: str
    run_id: str | None
    """The child run; None if tracking was unavailable throughout."""
    sample: dict[str, Any]
    """The sampled hyperparameters."""
    bundle: Path
    score: float | None
    """Best validation score; None if no epoch finished."""
    metrics: dict[str, float]
    """Validation metrics of the best epoch."""
    best_epoch: int | None
    epochs: int
    core_seconds: float
    error: str | None
    state: TrialState = "finished"
    formerly: tuple[str, ...] = ()
    """Ids that the trial had before its sweep was resumed."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state in ("finished", "failed")


class TrialLogger(tune.Callback):
    """Logs each trial as a child run of the sweep, from the driver, and keeps a record of it on disk."""

    def __init__(self, context: Context, family: Family, plan: Plan, config: Any, *, metric: str) -> None:
        self._context, self._family_name, self._data, self._config = context, family.name, plan.data, config
        self._parent_run_id, self._directory, self._metric = plan.run_id, plan.directory, metric
        self._tracking: Tracking | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for Tune, which pickles its callbacks; a connection cannot be pickled."""
        return {**vars(self), "_tracking": None}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial started, or started again after an interruption."""
        log.info("trial %s started: %s", trial.trial_id, _settings_text(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial finished an epoch."""
        if "epoch" in result:
            run = self._run(trial)
            if run:
                log_epochs(run, directory_of(self._directory, trial.trial_id), result["epoch"])
            line = {"trial_id": trial.trial_id, "epoch": result["epoch"], "time": time.time()}
            with (self._directory / HISTORY).open("a", encoding="utf-8") as history:
                history.write(json.dumps(line) + "\n")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial finished, or was stopped early by the scheduler."""
        self._end(trial, "FINISHED", None)
        result = trial.last_result or {}
        score = result.get(self._metric)
        shown = "" if score is None else f", {self._metric} {score:.4f}"
        log.info("trial %s finished: %s epochs%s", trial.trial_id, result.get("epoch", 0), shown)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial failed after its retries; reads Tune's local error file, whose copy in the storage may lag."""
        file = trial.error_file
        text = Path(file).read_text(encoding="utf-8") if file else "lost"
        if is_disk_full(text):
            # Ends the sweep: the next trial would fail too.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._directory))
        error = summarise_error(RuntimeError(text))
        self._end(trial, "FAILED", error)
        log.warning("trial %s failed: %s", trial.trial_id, error)

    def _run(self, trial: TuneTrial) -> Run | None:
        """The child run of a trial, created once tracking is available; earlier epochs are logged with the next."""
        self._tracking = self._tracking or Tracking(self._context)
        record = directory_of(self._directory, trial.trial_id) / RECORD
        if record.is_file() and read_json(record)["run_id"]:
            return self._tracking.resume_run(read_json(record)["run_id"])
        try:
            used = FAMILIES[self._family_name].used_settings(dataclasses.replace(self._config, **trial.config))
            run = self._tracking.start_run(
                self._family_name,
                name=f"trial {trial.trial_id}",
                params={name: value for name, value in trial.config.items() if name in used},
                tags={"trial_id": trial.trial_id, **source_tags(f"shopkeeper sweep {self._family_name}")},
                parent_run_id=self._parent_run_id,
            )
            run.log_dataset(dataset_of(self._family_name, self._data), context="training")
        except DependencyDown as error:
            log.warning("trial %s is not tracked yet: %s", trial.trial_id, error)
            run = None
        self._write(trial, run, None, "running")
        return run

    def _end(self, trial: TuneTrial, status: Status, error: str | None) -> None:
        run = self._run(trial)
        if run and error:
            run.set_tags({"error": error})
        if run:
            run.end(status)
        self._write(trial, run, error, "failed" if error else "finished")

    def _write(self, trial: TuneTrial, run: Run | None, error: str | None, state: TrialState) -> None:
        record = directory_of(self._directory, trial.trial_id) / RECORD
        before = read_json(record) if record.is_file() else {}
        content = {"trial_id": trial.trial_id, "run_id": run and run.run_id, "sample": trial.config}
        content |= {"error": error, "state": state, "formerly": before.get("formerly", [])}
        write_text(record, json.dumps(content, default=str))


def directory_of(sweep: Path, trial_id: str) -> Path:
    """Directory of a trial's checkpoints and bundle."""
    return sweep / "trials" / trial_id


def set_aside_damaged(sweep: Path) -> None:
    """Move the trials of an ended process whose records cannot be read away; others take their places."""
    for record in sorted((sweep / "trials").glob(f"*/{RECORD}")):
        try:
            content = read_json(record)
            missing = {"trial_id", "sample"} - content.keys()
            if missing:
                raise BundleRejected(f"{record} has no {', '.join(sorted(missing))}")
            checkpoints.read_reports(record.parent)
        except BundleRejected as error:
            aside = sweep / "damaged" / record.parent.name
            log.warning("a trial is left out, and another one takes its place: %s; its files are in %s", error, aside)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            record.parent.rename(aside)


def mark_interrupted(sweep: Path) -> None:
    """Mark the trials that an ended process of a sweep has left, for `adopt`."""
    for record in (sweep / "trials").glob(f"*/{RECORD}"):
        content = read_json(record)
        if content.get("state") == "running":
            write_text(record, json.dumps({**content, "state": "interrupted"}))


def adopt(sweep: Path, trial_id: str, sample: Mapping[str, Any]) -> None:
    """Give a new trial the directory of an interrupted one with the same settings, if there is one."""
    own = directory_of(sweep, trial_id)
    if own.exists():
        return
    for record in sorted((sweep / "trials").glob(f"*/{RECORD}")):
        content = read_json(record)
        if content.get("state") == "interrupted" and content["sample"] == dict(sample):
            record.parent.rename(own)
            formerly = [*content.get("formerly", []), content["trial_id"]]
            content |= {"trial_id": trial_id, "state": "running", "formerly": formerly}
            write_text(own / RECORD, json.dumps(content))
            return


def read_table(sweep: Path, metric: str, *, cores: int) -> list[TrialResult]:
    """All trials of a sweep, ordered by id, read from their files."""
    return [_read_trial(record.parent, metric, cores) for record in sorted((sweep / "trials").glob(f"*/{RECORD}"))]


def best_of(table: Sequence[TrialResult], metric: Metric) -> TrialResult | None:
    """The trial with the best score, the first of equals; None if none has a score."""
    scored = [trial for trial in table if trial.score is not None]
    choose = max if metric.mode == "max" else min
    return choose(scored, key=lambda trial: trial.score or 0.0, default=None)


def write_report(out: Path, table: Sequence[TrialResult], space: Mapping[str, Range], metric: Metric) -> None:
    """Write trials.csv, trials.json and search.svg into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(trial) for trial in table]
    (out / "trials.json").write_text(json.dumps(rows, indent=1, default=str), encoding="utf-8")
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    _plot(table, _best_so_far(out.parent, table, metric), space, metric).savefig(out / "search.svg")


def table_text(table: Sequence[TrialResult], metric: Metric) -> str:
    """The trials as lines of text, the best first and marked with `*`; settings that all trials share are left out."""
    best = best_of(table, metric)
    names = sorted({name for trial in table for name in trial.sample})
    names = [name for name in names if len({str(trial.sample.get(name)) for trial in table}) > 1]
    sign = -1 if metric.mode == "max" else 1
    ordered = sorted(table, key=lambda trial: math.inf if trial.score is None else sign * trial.score)
    rows = [["trial", *names, f"best val_{metric.name}", "epochs", "state"]]
    for trial in ordered:
        settings = [_cell(trial.sample.get(name, "")) for name in names]
        mark = "* " if best is not None and trial.trial_id == best.trial_id else "  "
        score = "none" if trial.score is None else f"{trial.score:.4f}"
        rows.append([f"{mark}{trial.trial_id}", *settings, score, str(trial.epochs), trial.state])
    rows[0][0] = f"  {rows[0][0]}"
    return "\n".join(aligned(rows, to_the_right=False))


def remove_losers(sweep: Path, best: TrialResult) -> None:
    """Delete the checkpoints of all trials and the bundles of all but the best."""
    for directory in (sweep / "trials").iterdir():
        checkpoints.remove(directory)
        if directory.name != best.trial_id:
            shutil.rmtree(checkpoints.best_of(directory), ignore_errors=True)


def _read_trial(directory: Path, metric: str, cores: int) -> TrialResult:
    record, reports = read_json(directory / RECORD), checkpoints.read_reports(directory)
    score = reports[-1].get(metric) if reports else None
    best = next(
        (each for each in reports if score is not None and each.get(metric.removeprefix("best_")) == score), None
    )
    return TrialResult(
        trial_id=record["trial_id"],
        run_id=record["run_id"],
        sample=record["sample"],
        bundle=checkpoints.best_of(directory),
        score=None if record["error"] else score,
        metrics={name: value for name, value in (best or {}).items() if name.startswith("val_")},
        best_epoch=int(best["epoch"]) if best else None,
        epochs=int(reports[-1]["epoch"]) if reports else 0,
        core_seconds=cores * sum(report["seconds"] for report in reports),
        error=record["error"],
        state=record.get("state", "failed" if record["error"] else "finished"),
        formerly=tuple(record.get("formerly", ())),
    )


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_cell(value)}" for name, value in sorted(settings.items()))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(trial: TrialResult) -> dict[str, Any]:
    row = {
        name: value
        for name, value in dataclasses.asdict(trial).items()
        if name not in ("sample", "metrics", "bundle", "formerly")
    }
    return {**row, **trial.sample, **trial.metrics}


def _best_so_far(sweep: Path, table: Sequence[TrialResult], metric: Metric) -> list[tuple[float, float]]:
    """(core-seconds spent, best score so far) at each epoch of any trial that improved on all before."""
    reports = {trial.trial_id: checkpoints.read_reports(directory_of(sweep, trial.trial_id)) for trial in table}
    now = {former: trial.trial_id for trial in table for former in trial.formerly}
    spent_by = {trial.trial_id: trial.core_seconds for trial in table}
    total_s = {name: sum(report["seconds"] for report in found) or 1.0 for name, found in reports.items()}
    spent, path, seen = 0.0, list[tuple[float, float]](), set[tuple[str, int]]()
    history = sweep / HISTORY
    lines = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
    for line in map(json.loads, lines):
        trial_id, epoch = now.get(line["trial_id"], line["trial_id"]), line["epoch"]
        found = reports.get(trial_id, [])
        if (trial_id, epoch) in seen or epoch >= len(found):
            continue
        seen.add((trial_id, epoch))
        report = found[epoch]
        spent += spent_by[trial_id] * report["seconds"] / total_s[trial_id]
        score = float(report.get(f"val_{metric.name}", math.nan))
        if metric.better(score, path[-1][1] if path else math.nan):
            path.append((spent, score))
    return [*path, (spent, path[-1][1])] if path else []


def _plot(
    table: Sequence[TrialResult], path: Sequence[tuple[float, float]], space: Mapping[str, Range], metric: Metric
) -> Figure:
    """The best score over core-seconds, and the score of each trial over each hyperparameter."""
    figure = Figure(figsize=(4 * (len(space) + 1), 3.6), layout="constrained")
    first, *others = figure.subplots(1, len(space) + 1, sharey=True, squeeze=False)[0]
    first.step([spent for spent, _ in path], [score for _, score in path], where="post", marker="o")
    first.set(xlabel="core-seconds of training", ylabel=f"best val_{metric.name}", title="search progress")
    scored = [trial for trial in table if trial.score is not None]
    for axes, (name, dimension) in zip(others, space.items(), strict=True):
        values = [trial.sample[name] for trial in scored]
        if isinstance(dimension, Choice):
            labels = [str(option) for option in dimension.options]
            axes.set_xticks(range(len(labels)), labels)
            values = [labels.index(str(value)) for value in values]
        axes.scatter(values, [trial.score for trial in scored])
        axes.set(
            xlabel=name, title=f"{len(scored)} trials", xscale="log" if isinstance(dimension, LogUniform) else "linear"
        )
    return figure
