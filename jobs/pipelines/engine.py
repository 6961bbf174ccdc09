"""The engine of steps: runs those whose inputs have changed, one after the other, and records what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs import __main__ as command_line
from jobs.cli.context import EXIT_FAILED, log
from jobs.pipelines.attempts import Session, failed, run_step
from jobs.pipelines.inputs import key_of, why_to_run
from jobs.pipelines.records import RunRecord, StepRecord
from jobs.pipelines.references import value_of
from jobs.pipelines.steps import Pipeline, Step, of_pipeline

AVAILABLE = ("done", "unchanged")
ENDED_BADLY = ("failed", "interrupted", "not run")


def run_steps(session: Session, pipeline: Pipeline) -> int:
    """Run all steps that can be run; returns the exit code of the first that failed, or 0.

    One after the other, as each may use the whole cluster. A KeyboardInterrupt is recorded and passed on.
    """
    session.save()
    for step in pipeline.steps:
        _run(session, pipeline, step)
        session.save()
    records = [session.record.steps[step.id] for step in pipeline.steps]
    bad = [record for record in records if record.status in ENDED_BADLY]
    return next((record.exit_code for record in bad if record.exit_code), EXIT_FAILED) if bad else 0


def blocked(step: Step, pipeline: Pipeline, records: Mapping[str, StepRecord]) -> tuple[str, str] | None:
    """The status and the reason of a step that cannot be run because of others; None if it can."""
    for name in (one.id for one in pipeline.steps if one.id in pipeline.after[step.id]):
        if records[name].status in ENDED_BADLY:
            return "not run", f"{name} was not done"
    for name in sorted(step.builds_on):
        if records[name].status == "skipped":
            return "skipped", f"{name} was skipped"
    return None


def results_of(record: RunRecord) -> dict[str, dict[str, Any]]:
    """The results of the steps that are done, by id."""
    found = record.steps.items()
    return {name: {**one.results, "status": one.result} for name, one in found if one.status in AVAILABLE}


def command_of(step: Step, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The command line of a step without the flags that all share; raises KeyError for a result that is missing."""
    return step.given(results, command_line.parser_of(step.verb, step.family))


def why_skipped(step: Step, results: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why the step's condition does not hold; None if it does, or there is none. Raises KeyError, ValueError."""
    condition = step.condition
    if condition is None:
        return None
    found = value_of(condition.left, results[condition.left.step])
    return None if condition.holds(found) else f"{condition.left} is {found} (if: {condition})"


def key(step: Step, pipeline: Pipeline, session: Session, command: list[str]) -> str:
    """The key of the step's inputs."""
    before = {name: session.record.steps[name] for name in pipeline.after[step.id]}
    return key_of(step, command, session.context, before=before)


def _run(session: Session, pipeline: Pipeline, step: Step) -> None:
    record = session.record.steps[step.id]
    found = blocked(step, pipeline, session.record.steps)
    if found is not None:
        _left_out(record, *found)
        return
    results = results_of(session.record)
    try:
        skipped = why_skipped(step, results)
        command = [] if skipped else command_of(step, results)
    except KeyError as error:
        failed(record, EXIT_FAILED, f"the step before it has no result {error}; its log and result are in {record.log}")
        return
    except ValueError as error:
        failed(record, EXIT_FAILED, str(error))
        return
    if skipped:
        _left_out(record, "skipped", skipped)
        return
    inputs = key(step, pipeline, session, command)
    why = "--fresh" if session.fresh else why_to_run(step, pipeline, session.context, record, inputs)
    if why is None:
        _left_out(record, "unchanged", "nothing that it reads has changed")
        return
    record.reason = why
    run_step(session, step, [*command, *of_pipeline(step, session.context)], inputs)


def _left_out(record: StepRecord, status: Any, reason: str) -> None:
    record.status, record.reason = status, reason
    log.info("%s: %s, %s", record.id, status, reason)
