"""`shopkeeper pipeline FILE.yaml`: runs the steps of a file as one unit that can be repeated and resumed."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import UNSPLIT, check_at_least
from jobs.pipelines.attempts import Session
from jobs.pipelines.engine import run_steps
from jobs.pipelines.plan import plan_lines, plan_of
from jobs.pipelines.process import Runner, run_verb
from jobs.pipelines.reading import read_pipeline
from jobs.pipelines.records import Records, RunRecord, StepRecord, checked_name, now, pipelines_of
from jobs.pipelines.steps import Pipeline
from jobs.pipelines.turns import turn
from jobs.pipelines.view import failure_text, overview, run_details, run_lines, state_of
from models.family import Family

USAGE = "shopkeeper pipeline FILE.yaml, or shopkeeper pipeline status [NAME]"


@dataclass(frozen=True)
class Options:
    """The pipeline, its variables, and how it waits for others."""

    command: tuple[str, ...] = ()
    """FILE.yaml to run it, or `status` and the name of a pipeline."""
    set: tuple[str, ...] = field(default=(), metadata=UNSPLIT)
    """Value of a variable of the file: NAME=VALUE; repeat it for several."""
    fresh: bool = False
    """Run every step, also those whose inputs have not changed, and start anew what was interrupted."""
    at_once: int = 1
    """Pipelines of the store that may run at once; further ones wait in the order in which they came."""
    wait: bool = True
    """Wait while other pipelines run; --no-wait refuses then. The same pipeline never runs twice at once."""

    def __post_init__(self) -> None:
        check_at_least(self, at_once=1)
        for text in self.set:
            if not text.partition("=")[0].isidentifier() or "=" not in text:
                raise ValueError(f"--set {text!r} is not NAME=VALUE, such as raw=shop.csv")

    @property
    def variables(self) -> dict[str, str]:
        """The values by name."""
        return {name: value for name, _, value in (text.partition("=") for text in self.set)}


def run(
    context: Context,
    family: Family | None,
    options: Options,
    config: Any | None,
    *,
    runner: Runner = run_verb,
    pause: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Run a pipeline, or report on those that were run; raises PipelineFailed with the code of the first bad step."""
    unknown = [word for word in options.command if word.startswith("-")]
    if unknown:
        raise UsageFailure(f"unknown flag {unknown[0]}; see `shopkeeper pipeline --help`")
    match options.command:
        case ("status",):
            return overview(context.store, pipelines_of(context.store))
        case ("status", name):
            return _status(context, checked_name(context.store, name))
        case (file,):
            return _run(context, Path(file), options, runner=runner, pause=pause)
    raise UsageFailure(f"name the file of a pipeline: {USAGE}")


class PipelineFailed(Failure):
    """A step failed; carries its exit code."""

    def __init__(self, message: str, exit_code: int, **details: Any) -> None:
        super().__init__(message, **details)
        self.exit_code = exit_code


def _run(context: Context, file: Path, options: Options, *, runner: Runner, pause: Callable[[float], None]) -> Outcome:
    _check_address(context)
    pipeline = read_pipeline(file, variables=options.variables)
    if context.dry_run:
        planned = plan_of(pipeline, context, Records(context.store, pipeline.name), fresh=options.fresh)
        return Outcome(
            status="dry-run", details={"pipeline": pipeline.name, "plan": planned}, summary=plan_lines(planned)
        )
    context.store.check(writes=True)
    with turn(context.store, pipeline.name, at_once=options.at_once, waits=options.wait, pause=pause):
        records = Records(context.store, pipeline.name)
        record = _new_record(pipeline, records)
        session = Session(context, records, record, runner, pause, options.fresh)
        again = context.command(" ".join(["pipeline", shlex.quote(str(file)), *_repeated(options)]))
        try:
            exit_code = run_steps(session, pipeline)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the pipeline {pipeline.name} was interrupted; `{again}` resumes it") from None
        record.finished, record.exit_code = now(), exit_code
        session.save()
        records.remove_old()
    details = run_details(records, record)
    if exit_code:
        raise PipelineFailed(failure_text(record, again), exit_code, **details)
    return Outcome(details=details, summary="\n".join(run_lines(record)))


def _new_record(pipeline: Pipeline, records: Records) -> RunRecord:
    """The record of a new run, with what is known of the steps from the run before."""
    before = records.latest()
    steps = {}
    for step in pipeline.steps:
        known = before.steps.get(step.id) if before else None
        if known is None or (known.verb, known.family) != (step.verb, step.family):
            known = StepRecord(step.id, step.verb, step.family)
        known.status, known.reason, known.error, known.exit_code = "waiting", "", None, None
        known.attempts, known.started, known.seconds = 0, None, None
        steps[step.id] = known
    if before is not None and before.finished is None:
        log.info("resuming %s: its run %s did not finish", pipeline.name, before.run)
    return RunRecord(
        pipeline=pipeline.name,
        run=records.new_run(),
        file=str(pipeline.path.absolute()),
        started=now(),
        steps=steps,
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def _status(context: Context, name: str) -> Outcome:
    records = Records(context.store, name)
    record = records.latest()
    if record is None:
        raise Failure(f"the pipeline {name} has not begun its first run yet")
    state = state_of(context.store, name, record)
    details = {**run_details(records, record), "state": state}
    return Outcome(details=details, summary="\n".join(run_lines(record, state)))


def _check_address(context: Context) -> None:
    if (context.address or "").startswith(("http://", "https://")):
        raise UsageFailure(
            f"--address {context.address} is a dashboard URL; "
            f"`shopkeeper submit --address {context.address} pipeline FILE.yaml` runs all steps on that cluster"
        )


def _repeated(options: Options) -> list[str]:
    return [f"--set {shlex.quote(text)}" for text in options.set]
