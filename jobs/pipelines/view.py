"""Pipelines for people and for JSON: what happened to each step, where its log is, and what to do next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.cli.context import EXIT_GATE_NOT_MET, Outcome, Store
from jobs.cli.text_table import aligned
from jobs.pipelines.process import tail
from jobs.pipelines.records import Records, RunRecord, StepRecord
from jobs.pipelines.turns import is_running

HIDDEN = ("key", "done_key", "process", "was_cut_off", "name")
"""Fields of a step's record that are of use to the engine only."""


def run_details(records: Records, record: RunRecord) -> dict[str, Any]:
    """A run for the JSON line."""
    return {
        "pipeline": record.pipeline,
        "run": record.run,
        "file": record.file,
        "started": record.started,
        "finished": record.finished,
        "run_exit_code": record.exit_code,
        "record": str(records.path(record.run)),
        "steps": [_step(one) for one in record.steps.values()],
    }


def run_lines(record: RunRecord, state: str | None = None) -> list[str]:
    """A run as a table; `state` says what becomes of one that is not finished."""
    rows = [("step", "status", "attempts", "seconds", "what")]
    rows += [
        (
            one.id,
            one.status,
            str(one.attempts or ""),
            "" if one.seconds is None else f"{one.seconds:.0f}",
            _what(one),
        )
        for one in record.steps.values()
    ]
    ended = (
        f"finished {record.finished} with exit code {record.exit_code}" if record.finished else state or "not finished"
    )
    title = f"run {record.run}, {ended}"
    return [f"  {line}" for line in [title, *aligned(rows, to_the_right=False)]]


def failure_text(record: RunRecord, again: str) -> str:
    """Why a run failed, with the end of the log of each failed step, and how to go on."""
    lines = []
    for one in (step for step in record.steps.values() if step.status == "failed"):
        lines.append(f"{one.id} failed with exit code {one.exit_code}: {one.error}")
        if one.exit_code == EXIT_GATE_NOT_MET:
            lines.append("  the champion is what it was, and what is deployed too")
        if one.log:
            lines += [f"  log: {one.log}", *(f"  | {line}" for line in tail(Path(one.log)).splitlines())]
    left = [one.id for one in record.steps.values() if one.status == "not run"]
    if left:
        lines.append(f"not run: {', '.join(left)}")
    lines.append(f"when the cause is gone, `{again}` goes on from there")
    return "\n".join([f"the pipeline {record.pipeline} did not finish:", *lines])


def overview(store: Store, names: Sequence[str]) -> Outcome:
    """The last run of every pipeline of a store."""
    found, rows = {}, [("pipeline", "state", "last run", "exit code")]
    for name in names:
        record = Records(store, name).latest()
        state = state_of(store, name, record)
        code = record.exit_code if record else None
        found[name] = {"state": state, "run": record.run if record else None, "exit_code": code}
        rows.append((name, state, record.run if record else "", "" if code is None else str(code)))
    lines = [f"  {line}" for line in aligned(rows, to_the_right=False)] if names else ["  no pipeline was run here"]
    return Outcome(details={"pipelines": found}, summary="\n".join(lines))


def state_of(store: Store, name: str, record: RunRecord | None) -> str:
    """What a pipeline is doing, in words."""
    if holder := is_running(store, name):
        return f"running or waiting ({holder})"
    if record is None:
        return "not begun"
    if record.finished is None:
        return "cut off; running it again resumes it"
    return "failed" if record.exit_code else "done"


def _step(record: StepRecord) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(record).items() if name not in HIDDEN}


def _what(record: StepRecord) -> str:
    """The result of a step in few words."""
    if record.status in ("skipped", "not run", "unchanged"):
        return record.reason
    if record.error:
        return f"{record.error.splitlines()[0]} (log: {record.log})"
    if record.status == "done":
        facts = [f"{name} {record.results[name]}" for name in ("run_id", "version", "url") if name in record.results]
        return ", ".join([record.result, *facts])
    return f"{record.reason} (log: {record.log})" if record.status in ("running", "interrupted") else record.reason
