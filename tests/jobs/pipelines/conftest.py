"""A pipeline of the toy family, and a runner that starts no processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from jobs import pipeline
from jobs.cli.context import Context, Outcome, Store
from jobs.pipeline import Options
from jobs.pipelines.records import Records
from models.prepared import Prepared
from tests.kit.step_runner import StepRunner

NIGHTLY = """
    steps:
      - run: prepare toy
        flags: {raw: visitors.csv}
      - run: train toy
        flags: {epochs: 3}
      - run: promote toy
        flags: {model: "${train.model}"}
      - run: evaluate toy
        flags: {model: "${promote.model}"}
      - run: erase --pending
"""
Run = Callable[..., Outcome]


@pytest.fixture
def runner(toy_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepRunner:
    """A runner that answers like the verbs, in a folder with raw data."""
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.html"
    report.touch()
    found = StepRunner()
    found.facts["prepare"]["data"] = str(toy_data.path)
    found.facts["evaluate"]["report"] = str(report)
    return found


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that the engine made."""
    return []


@pytest.fixture
def run(runner: StepRunner, store: Store, tmp_path: Path, pauses: list[float]) -> Run:
    """Runs a pipeline with the runner, and without waiting."""

    def run(text: str = NIGHTLY, *, dry_run: bool = False, **options: Any) -> Outcome:
        (tmp_path / "nightly.yaml").write_text(dedent(text), encoding="utf-8")
        given = Options(command=("nightly.yaml",), **options)
        context = Context(store, dry_run=dry_run)
        return pipeline.run(context, None, given, None, runner=runner, pause=pauses.append)

    return run


def statuses(store: Store) -> dict[str, str]:
    record = Records(store, "nightly").latest()
    assert record is not None
    return {name: one.status for name, one in record.steps.items()}


def begin_run(store: Store, command: list[str], run_id: str = "abc") -> None:
    """What `train` leaves in the store as soon as it has opened its MLflow run."""
    (name,) = [word.partition("=")[2] for word in command if word.startswith("--name=")]
    directory = store.run_directory("toy", run_id)
    directory.mkdir(parents=True)
    (directory / "plan.json").write_text(json.dumps({"options": {"name": name}}), encoding="utf-8")
