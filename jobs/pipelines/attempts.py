"""The attempts of a step: repeated after failures that may pass, resumed where an earlier one was cut off."""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import EXIT_CTRL_C, EXIT_DEPENDENCY_DOWN, EXIT_INTERRUPTED, Context, log
from jobs.cluster.processes import end_tree, running_process
from jobs.pipelines.process import Ended, Runner, read_result
from jobs.pipelines.records import Records, RunRecord, StepRecord, now
from jobs.pipelines.references import masked
from jobs.pipelines.steps import Step
from jobs.pipelines.traits import ACCEPTED, MODEL
from jobs.tracking.runs import PLAN

REPEATED = (EXIT_DEPENDENCY_DOWN, EXIT_INTERRUPTED, EXIT_CTRL_C)
"""Exit codes after which a step is tried again; those for data, the gate and usage would come again."""
MAX_PAUSE_S = 600.0
END_S = 60.0
"""For a verb that a killed pipeline left behind to end by itself."""
SECONDS_PER_MINUTE = 60


@dataclass(frozen=True)
class Session:
    """What the steps of one run share."""

    context: Context
    records: Records
    record: RunRecord
    runner: Runner
    pause: Callable[[float], None]
    fresh: bool = False
    """Run every step, and resume none."""

    def save(self) -> None:
        """Write the record of the run."""
        self.records.write(self.record)


def run_step(session: Session, step: Step, command: list[str], key: str) -> None:
    """Run a step until it is done, fails, or has used up its repetitions, and record it.

    A KeyboardInterrupt, which has stopped the verb, is passed on.
    """
    record = session.record.steps[step.id]
    if not session.fresh and record.key == key and record.done_key is None:
        if (ended := _left_behind(step, record)) is not None:
            _done(step, record, ended)
            return
    else:
        record.name, record.was_cut_off = None, False
    record.key, record.done_key, record.results = key, None, {}
    record.command, record.started = shlex.join(masked(["shopkeeper", *command])), now()
    began = time.monotonic()
    for attempt in range(1, step.retries + 2):
        record.status, record.attempts = "running", attempt
        try:
            ended = _attempt(session, step, command)
            record.seconds = round(time.monotonic() - began, 1)
            if _concluded(step, record, ended) or attempt > step.retries:
                return
            _wait(session, step, attempt)
        except KeyboardInterrupt:
            record.status, record.exit_code, record.process = "interrupted", EXIT_INTERRUPTED, None
            record.was_cut_off, record.seconds = True, round(time.monotonic() - began, 1)
            session.save()
            raise


def interrupted_run(context: Context, family: str, name: str) -> str | None:
    """The id of the run that a step began under a name, found by its plan in the store; None if it got not so far."""
    for path in (context.store.root / family / "runs").glob(f"*/{PLAN}"):
        try:
            if json.loads(path.read_text(encoding="utf-8"))["options"].get("name") == name:
                return path.parent.name
        except (OSError, ValueError, KeyError, AttributeError):  # not of ours
            continue
    return None


def failed(record: StepRecord, exit_code: int, error: str) -> None:
    """Record that a step failed."""
    record.status, record.exit_code, record.error, record.process = "failed", exit_code, error, None
    log.error("%s: failed with exit code %d: %s", record.id, exit_code, error)


def _attempt(session: Session, step: Step, command: list[str]) -> Ended:
    record = session.record.steps[step.id]
    path = session.records.log(session.record.run, step.id, record.attempts)
    record.log = str(path)
    words = [*command, *_run_flags(session, step)]
    log.info("%s: %s", step.id, shlex.join(masked(["shopkeeper", *words])))
    session.save()

    def note(pid: int, started_s: float) -> None:
        record.process = (socket.gethostname(), pid, started_s)
        session.save()

    timeout_s = None if step.timeout_minutes is None else step.timeout_minutes * SECONDS_PER_MINUTE
    return session.runner(words, log=path, timeout_s=timeout_s, started=note)


def _run_flags(session: Session, step: Step) -> list[str]:
    """The name of a new MLflow run, or that of the run which an earlier attempt began and the flag that resumes it."""
    if not step.traits.resumes:
        return []
    record = session.record.steps[step.id]
    if record.name is not None and record.was_cut_off:
        found = interrupted_run(session.context, str(step.family), record.name)
        if found is not None:
            return [f"--name={record.name}", f"--resume={found}"]
    own = step.flag("name")
    title = own.texts[0] if own else f"{step.verb} {step.family}"
    record.name = f"{title} ({session.record.pipeline} {session.record.run}-{record.attempts})"
    return [f"--name={record.name}"]


def _concluded(step: Step, record: StepRecord, ended: Ended) -> bool:
    """Record how an attempt ended; returns False if the step may be tried again."""
    code = ended.exit_code
    if ended.timed_out:
        record.was_cut_off = True
        failed(record, EXIT_INTERRUPTED, f"it did not end within {step.timeout_minutes:g} minutes and was stopped")
        return True
    if code == 0 or code in step.accept:
        _done(step, record, ended)
        return True
    if code < 0:
        record.was_cut_off = True
        failed(record, EXIT_INTERRUPTED, f"it was killed by signal {-code}")
        return False
    record.was_cut_off = record.was_cut_off or code in REPEATED
    failed(record, code, str(ended.line.get("error") or f"it ended with exit code {code}"))
    return code not in REPEATED


def _done(step: Step, record: StepRecord, ended: Ended) -> None:
    line = ended.line
    results = {name: line[name] for name in step.traits.results if line.get(name) is not None}
    if step.traits.resumes and line.get("run_id"):
        results[MODEL] = f"runs:/{line['run_id']}"
    result = str(line.get("status", "ok"))
    if ended.exit_code:
        result = ACCEPTED[ended.exit_code]
        log.warning("%s: %s, which the pipeline accepts: %s", step.id, result, line.get("error"))
    elif result == "unchanged" and record.was_cut_off and step.verb == "promote":
        result = "promoted"  # by the attempt that was cut off before it could say so
    record.results, record.result, record.exit_code = results, result, ended.exit_code
    record.done_key, record.done_at, record.error, record.status = record.key, now(), None, "done"
    record.was_cut_off, record.process = False, None
    log.info("%s: %s", step.id, result)


def _wait(session: Session, step: Step, attempt: int) -> None:
    """Pause before a repetition, twice as long each time."""
    record = session.record.steps[step.id]
    pause_s = min(MAX_PAUSE_S, step.pause_s * 2 ** (attempt - 1))
    log.warning("%s: trying again in %.0f s, attempt %d of %d", step.id, pause_s, attempt + 1, step.retries + 1)
    record.status = "running"
    session.save()
    session.pause(pause_s)


def _left_behind(step: Step, record: StepRecord) -> Ended | None:
    """The end of the attempt that ran when its pipeline was killed, if it was done; one that still runs is stopped."""
    if record.process is None or record.log is None:
        return None
    host, pid, started_s = record.process
    record.process, record.was_cut_off = None, True
    if host == socket.gethostname() and running_process(pid, started_s) is not None:
        log.warning("%s: process %d of the run before is still there, stopping it", step.id, pid)
        end_tree(pid, timeout_s=END_S)
    line = read_result(Path(record.log))
    code = line.get("exit_code")
    return Ended(code, line) if code == 0 or code in step.accept else None
