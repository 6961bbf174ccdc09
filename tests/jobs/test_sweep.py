"""Sweeps on a Ray cluster: failed trials, resumption and invalid requests."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs import sweep
from jobs.cli.context import Context, Failure, UsageFailure
from jobs.sweep import Options
from jobs.tracking.client import Tracking
from jobs.tracking.runs import open_run
from jobs.training import checkpoints, trials, tuner
from jobs.training.placement import TrainingResources
from jobs.training.search_space import search_space
from jobs.training.tuner import Search
from models import bundle
from models.config import Choice, LogUniform, Range
from models.family import Family
from models.metrics import Metric
from models.prepared import Prepared
from tests.jobs.test_train import COMMAND
from tests.kit import toy as toy_module
from tests.kit.register import TOY


def with_failing_learning_rate(marker: Path) -> Any:
    """The toy family, which always fails for the first learning rate that is not the default."""
    default = toy_module.Config().learning_rate

    def build(config: Any, schema: Any) -> Any:
        if config.learning_rate != default:
            try:
                with marker.open("x") as file:
                    file.write(repr(config.learning_rate))
            except FileExistsError:
                pass
            if marker.read_text() == repr(config.learning_rate):
                raise ValueError("this learning rate fails")
        return TOY.build(config, schema)

    return dataclasses.replace(TOY, build=build)


@pytest.mark.ray
def test_a_failed_trial_does_not_fail_the_sweep(
    ray_cluster: None, toy_data: Prepared, context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "shopkeeper")
    family = with_failing_learning_rate(tmp_path / "failing")

    outcome = sweep.run(context, family, Options(trials=3), toy_module.Config(epochs=3))

    assert outcome.run_id is not None
    assert (outcome.details["num_trials"], outcome.details["num_failed"]) == (3, 1)
    assert outcome.table is not None and outcome.table.count("finished") == 2
    assert [message.split()[2] for message in caplog.messages if message.startswith("trial ")].count("started:") >= 3
    assert len([message for message in caplog.messages if " finished: 3 epochs, best_val_accuracy 0." in message]) >= 1
    tracking = Tracking(context)
    children = [run for run in tracking.list_runs("toy") if run.parent_run_id == outcome.run_id]
    assert sorted(child.status for child in children) == ["FAILED", "FINISHED", "FINISHED"]
    best = max(child.metrics.get("best_val_accuracy", 0.0) for child in children)
    assert best == outcome.metrics["val_accuracy"] > 0.4
    model = bundle.load(tracking.download(f"runs:/{outcome.run_id}/bundle", tmp_path / "download"), TOY)
    assert model.metrics["val_accuracy"] == best
    report = tracking.download(f"runs:/{outcome.run_id}/search", tmp_path / "download")
    assert (report / "search.svg").read_text().startswith("<?xml")
    rows = list(csv.DictReader((report / "trials.csv").open()))
    assert [row["error"] for row in rows if row["error"]] == ["ValueError: this learning rate fails"]
    assert not list(context.store.run_directory("toy", outcome.run_id).glob("trials/*/checkpoints"))


@pytest.mark.ray
def test_a_sweep_whose_trials_all_fail_fails_with_the_first_error(
    ray_cluster: None, toy_data: Prepared, context: Context, tmp_path: Path
) -> None:
    def build(config: Any, schema: Any) -> Any:
        raise ValueError("nothing works")

    family = dataclasses.replace(TOY, build=build)

    with pytest.raises(Failure, match=r"all 2 trials failed.*nothing works") as failure:
        sweep.run(context, family, Options(trials=2), None)

    assert failure.value.exit_code == 1


@pytest.mark.ray
@pytest.mark.parametrize("options", [Options(concurrent=3), Options(gpu=True), Options(workers_per_trial=3)])
def test_a_sweep_beyond_the_cluster_s_resources_is_rejected(
    ray_cluster: None, toy: Family, toy_data: Prepared, context: Context, options: Options
) -> None:
    with pytest.raises(UsageFailure, match="cluster has 2 CPUs and 0 GPUs"):
        sweep.run(context, toy, options, None)

    assert Tracking(context).list_runs("toy") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "--trials 0 is too small; use 1 or more"),
        ({"workers_per_trial": 0}, "--workers-per-trial 0 is too small; use 1 or more"),
        ({"concurrent": -2}, "--concurrent -2 is too small; use 0 or more"),
        ({"minutes": -1.0}, "--minutes -1.0 leaves no time"),
    ],
)
def test_invalid_options_are_rejected_even_for_a_dry_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("state", [None, b"cjobs.trials\nTrialLogger\n.", b'{"trial_data": ['])
def test_a_killed_sweep_goes_on_from_the_records_of_its_trials(
    toy: Family, toy_data: Prepared, context: Context, state: bytes | None
) -> None:
    """Whatever is left of Tune's own state: it may be cut off by a full disk, or of another release."""
    options, config = Options(trials=4), toy_module.Config(epochs=2)
    plan, run = open_run(context, toy, name="sweep", config=config, options=options, tags={})
    run.end("KILLED")
    samples = [{"learning_rate": rate, "network": "linear"} for rate in (0.01, 0.02, 0.03)]
    write_trial(plan.directory, "ended", [0.1, 0.2], sample=samples[0])
    write_trial(plan.directory, "failed", [], sample=samples[1], state="failed", error="ValueError: no")
    write_trial(plan.directory, "killed", [], sample=samples[2], state="running")
    if state is not None:
        (plan.directory / "tune").mkdir()
        (plan.directory / "tune" / "tuner.pkl").write_bytes(state)
        (plan.directory / "tune" / "experiment_state-1.json").write_bytes(state)

    outcome = sweep.run(context, toy, Options(resume=plan.run_id), None)

    table = trials.read_table(plan.directory, "best_val_accuracy", cores=1)
    states = {row.trial_id: row.state for row in table}
    assert len(table) == 4 and (states.pop("ended"), states.pop("failed")) == ("finished", "failed")
    assert set(states.values()) == {"finished"}
    assert [row.sample for row in table if row.formerly == ("killed",)] == [samples[2]]
    assert (outcome.details["num_trials"], outcome.details["num_failed"]) == (4, 1)
    assert run.info().status == "FINISHED"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_more_trials_are_added_to_a_finished_sweep(
    toy: Family, toy_data: Prepared, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "shopkeeper")
    first = sweep.run(context, toy, Options(trials=2), toy_module.Config(epochs=2))
    same = sweep.run(context, toy, Options(resume=first.run_id), None)
    assert (same.details["num_trials"], same.metrics) == (2, first.metrics)
    assert any("a larger --trials or --core-seconds adds to it" in message for message in caplog.messages)

    more = sweep.run(context, toy, Options(resume=first.run_id, trials=4), None)
    again = sweep.run(context, toy, Options(resume=first.run_id), None)

    assert (more.run_id, more.details["num_trials"], again.details["num_trials"]) == (first.run_id, 4, 4)
    assert more.metrics["val_accuracy"] >= first.metrics["val_accuracy"]
    assert again.metrics == more.metrics and bundle.load(Path(again.details["bundle"]), toy)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_stopped_trial_of_several_workers_leaves_its_processors_to_the_next(
    toy_data: Prepared, context: Context
) -> None:
    """On a cluster with as many processors as a trial reserves; at its last epoch a trial is stopped."""
    command = ["sweep", "toy", "--trials", "2", "--workers-per-trial", "2", "--concurrent", "1", "--epochs", "1"]

    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, *command, "--store", str(context.store.root), "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["num_trials"], found["num_failed"]) == (2, 0)


def test_trials_that_ended_guide_the_search_that_goes_on(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    write_trial(tmp_path, "a", [0.1, 0.2, 0.25, 0.3], sample={"learning_rate": 0.01, "network": "linear"})
    write_trial(tmp_path, "b", [], sample={"learning_rate": 0.02, "network": "linear"}, state="failed", error="no")
    write_trial(tmp_path, "c", [0.4], sample={"learning_rate": 0.03, "network": "linear"}, state="running")
    search = Search(
        family=toy,
        config=toy_module.Config(epochs=9),
        space=toy.space,
        data=toy_data,
        directory=tmp_path,
        num_trials=4,
        num_concurrent=1,
        resources=TrainingResources(num_workers=1, cpus_per_worker=1),
        minutes=None,
    )

    searcher, scheduler = tuner._optuna(search, search.table()), tuner._scheduler(search, search.table())

    study: Any = searcher._ot_study
    told = [(trial.params.get("learning_rate"), trial.state.name, trial.value) for trial in study.trials]
    assert told == [(None, "WAITING", None), (0.01, "COMPLETE", 0.3), (0.02, "FAIL", None)]
    assert {milestone: scores for milestone, scores in scheduler._brackets[0]._rungs if scores} == {3: {"a": 0.3}}
    assert (searcher.suggest("next") or {})["learning_rate"] == 0.03


def test_fixed_hyperparameters_and_given_flags_are_not_searched(toy: Family) -> None:
    space, config = search_space(toy, toy_module.Config(learning_rate=0.5), ("epochs=7",))
    assert (list(space), config.learning_rate, config.epochs) == (["network"], 0.5, 7)

    space, config = search_space(toy, toy_module.Config(), ("network=hidden",))
    assert (list(space), config.network) == (["learning_rate"], "hidden")


@dataclass(frozen=True)
class Renamed(toy_module.Config):
    epochs: int = field(default=3, metadata={"was": "passes", "until": "0.3.0"})


def test_a_fixed_hyperparameter_may_have_its_deprecated_name(toy: Family) -> None:
    _, config = search_space(dataclasses.replace(toy, Config=Renamed), Renamed(), ("passes=7",))
    assert config == Renamed(epochs=7)


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ("colour=red", "'?colour=red"),
        ("network=tree", 'Choose from: "linear", "hidden"'),
        ("epochs", "not NAME=VALUE"),
        ("epochs=x", "integer"),
    ],
)
def test_an_unknown_fixed_hyperparameter_is_rejected(toy: Family, fix: str, message: str) -> None:
    with pytest.raises(UsageFailure, match=message):
        search_space(toy, toy_module.Config(), (fix,))


def test_the_report_shows_the_search_in_chronological_order(tmp_path: Path) -> None:
    write_trial(tmp_path, "a", [0.1, 0.4])
    write_trial(tmp_path, "b", [0.3, 0.2])
    order = [("a", 0), ("b", 0), ("b", 0), ("b", 1), ("a", 1)]
    lines = [json.dumps({"trial_id": name, "epoch": epoch, "time": 0.0}) for name, epoch in order]
    (tmp_path / trials.HISTORY).write_text("\n".join(lines))

    table = trials.read_table(tmp_path, "best_val_accuracy", cores=3)
    space: dict[str, Range] = {"network": Choice(("linear", "hidden")), "learning_rate": LogUniform(0.01, 1.0)}
    trials.write_report(tmp_path / "search", table, space, Metric("accuracy", "max"))

    assert [(row.score, row.best_epoch, row.core_seconds) for row in table] == [(0.4, 1, 12.0), (0.3, 0, 12.0)]
    assert trials._best_so_far(tmp_path, table, Metric("accuracy", "max")) == [
        (6.0, 0.1),
        (12.0, 0.3),
        (24.0, 0.4),
        (24.0, 0.4),
    ]
    assert (tmp_path / "search" / "search.svg").stat().st_size > 1000


def test_the_table_shows_the_best_trial_first_and_only_the_settings_that_differ(tmp_path: Path) -> None:
    write_trial(tmp_path, "a", [0.1, 0.4])
    write_trial(tmp_path, "b", [0.3, 0.5, 0.2], network="hidden")
    write_trial(tmp_path, "c", [], state="failed", error="ValueError: too large")
    table = trials.read_table(tmp_path, "best_val_accuracy", cores=1)

    text = trials.table_text(table, Metric("accuracy", "max"))

    assert text.splitlines() == [
        "  trial  network  best val_accuracy  epochs  state",
        "* b      hidden   0.5000             2       finished",
        "  a      linear   0.4000             1       finished",
        "  c      linear   none               0       failed",
    ]


def write_trial(sweep_directory: Path, name: str, scores: list[float], *, network: str = "linear", **more: Any) -> None:
    """Write what a trial leaves on disk: its record and a report for each epoch."""
    directory = trials.directory_of(sweep_directory, name)
    directory.mkdir(parents=True)
    sample = {"network": network, "learning_rate": 0.1}
    record = {"trial_id": name, "run_id": name, "sample": sample, "error": None, **more}
    (directory / trials.RECORD).write_text(json.dumps(record))
    reports = [
        {"epoch": epoch, "val_accuracy": score, "best_val_accuracy": max(scores[: epoch + 1]), "seconds": 2.0}
        for epoch, score in enumerate(scores)
    ]
    (directory / checkpoints.REPORTS).write_text(json.dumps(reports))


@pytest.mark.parametrize(
    ("file", "content"), [("reports.json", "[{"), ("trial.json", ""), ("trial.json", '{"trial_id": "a1"}')]
)
def test_a_trial_whose_record_is_damaged_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: str
) -> None:
    for name in ("a1", "b2"):
        directory = trials.directory_of(tmp_path, name)
        directory.mkdir(parents=True)
        (directory / "trial.json").write_text(json.dumps({"trial_id": name, "sample": {}}), encoding="utf-8")
        (directory / "reports.json").write_text("[]", encoding="utf-8")
    (trials.directory_of(tmp_path, "a1") / file).write_text(content, encoding="utf-8")

    trials.set_aside_damaged(tmp_path)

    assert [each.name for each in (tmp_path / "trials").iterdir()] == ["b2"]
    assert (tmp_path / "damaged" / "a1" / file).read_text(encoding="utf-8") == content
    assert "a trial is left out" in caplog.text
