"""The resolved plan of a pipeline, which --dry-run shows: each command, and whether it would be run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from jobs import __main__ as command_line
from jobs.cli.context import Context
from jobs.cli.flags import flag_name
from jobs.pipelines.inputs import key_of, why_to_run
from jobs.pipelines.records import Records, StepRecord
from jobs.pipelines.references import masked
from jobs.pipelines.steps import Flag, Pipeline, Step, of_pipeline


def plan_of(pipeline: Pipeline, context: Context, records: Records, *, fresh: bool) -> list[dict[str, Any]]:
    """Every step in the order in which it would run; a result that is not there yet is shown as ${STEP.RESULT}."""
    before = records.latest()
    known = before.steps if before else {}
    steps = {step.id: known.get(step.id) or StepRecord(step.id, step.verb, step.family) for step in pipeline.steps}
    changed: set[str] = set()
    planned = []
    for step in pipeline.steps:
        depends = sorted(changed & pipeline.after[step.id] - _without_effect(pipeline))
        command, why = _words(step, steps, changed), None
        if fresh:
            why = "--fresh"
        elif depends and step.traits.can_be_unchanged:
            why = f"{depends[0]} is run before it"
        else:
            made = {name: steps[name] for name in pipeline.after[step.id]}
            key = key_of(step, command, context, before=made)
            why = why_to_run(step, pipeline, context, steps[step.id], key)
        if why:
            changed.add(step.id)
        planned.append(
            {
                "id": step.id,
                "action": "run" if why else "unchanged",
                "why": why or "nothing that it reads has changed",
                "if": str(step.condition) if step.condition else None,
                "after": sorted(pipeline.after[step.id]),
                "command": shlex.join(masked(["shopkeeper", *command, *of_pipeline(step, context)])),
                "retries": step.retries,
                "timeout_minutes": step.timeout_minutes,
            }
        )
    return planned


def plan_lines(planned: Sequence[dict[str, Any]]) -> str:
    """The plan for people."""
    lines = []
    for one in planned:
        condition = f", if {one['if']}" if one["if"] else ""
        lines += [f"  {one['id']}: {one['action']} ({one['why']}){condition}", f"    {one['command']}"]
    return "\n".join(lines)


def _words(step: Step, steps: dict[str, StepRecord], changed: set[str]) -> list[str]:
    """The command with the results that are known."""
    known = {name: {**one.results, "status": one.result} for name, one in steps.items() if name not in changed}
    try:
        return step.given(known, command_line.parser_of(step.verb, step.family))
    except KeyError:
        own = [word for flag in step.flags for word in _as_written(flag)]
        taken = [f"(flags of {step.flags_from})"] if step.flags_from else []
        return [step.verb, *([step.family] if step.family else []), *step.words, *taken, *own]


def _as_written(flag: Flag) -> list[str]:
    if not flag.references:
        return flag.words({})
    return [f"{flag_name(flag.name)}={','.join(flag.texts)}"]


def _without_effect(pipeline: Pipeline) -> set[str]:
    """Steps on whose verbs no other builds."""
    return {step.id for step in pipeline.steps if step.traits.identity is None}
