"""The supervisor of a submitted verb: a job without a CPU on the head node that submits it again when its driver dies.

The head is there as long as the cluster is, wherever the attempts run.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.cli.context import Failure, Interrupted, Outcome, UsageFailure, log
from jobs.pipelines.traits import traits_of
from jobs.submission.client import (
    JobClient,
    JobInfo,
    exit_code_of,
    find_job,
    log_of,
    outcome_of,
    state_of,
    was_lost,
)
from jobs.submission.forwarded import OWN_METADATA
from jobs.submission.watching import run_id_in, watch

TASK = f"{OWN_METADATA}supervised"
"""Metadata of a supervisor: its task."""
ATTEMPT_OF = f"{OWN_METADATA}attempt_of"
"""Metadata of an attempt: the id of its supervisor."""
ON_THE_HEAD = {"node:__internal_head__": 0.001}
"""A resource that only Ray's head node has."""
PAUSE_S = 5.0
"""Before the next attempt, so that what kills each at once does not use them all up in a moment."""


@dataclass(frozen=True)
class Task:
    """What a supervisor runs."""

    command: tuple[str, ...]
    """The verb and its flags."""
    before: tuple[str, ...]
    """Words of the entrypoint before the command."""
    after: tuple[str, ...]
    """Words of the entrypoint after it."""
    retries: int
    cpus: float
    """CPUs reserved for the verb's own process."""
    resources: dict[str, float] = field(default_factory=dict)
    """Other resources reserved for it."""

    def entrypoint(self, run_id: str | None) -> tuple[str, ...]:
        """The words of an attempt; one after the first resumes the run that the last one began."""
        can_resume = traits_of(self.command[0]).resumes and not any(
            word == "--resume" or word.startswith("--resume=") for word in self.command
        )
        resume = ("--resume", run_id) if run_id and can_resume else ()
        return (*self.before, *self.command, *resume, *self.after)

    def to_metadata(self) -> dict[str, str]:
        """As metadata of the supervisor's job."""
        return {TASK: json.dumps(asdict(self))}


def task_of(info: JobInfo) -> Task | None:
    """The task of a supervisor; None for any other job."""
    text = (info.metadata or {}).get(TASK)
    if text is None:
        return None
    fields: dict[str, Any] = json.loads(text)
    words: dict[str, Any] = {name: tuple(fields.pop(name)) for name in ("command", "before", "after")}
    return Task(**words, **fields)


def is_attempt(info: JobInfo) -> bool:
    """Whether a job is an attempt of a supervisor, and was not submitted by a person."""
    return ATTEMPT_OF in (info.metadata or {})


def attempts_of(jobs: Sequence[JobInfo], supervisor: JobInfo) -> list[JobInfo]:
    """The attempts of a supervisor, in order; none of any other job."""
    job_id = supervisor.submission_id
    found = [info for info in jobs if job_id and (info.metadata or {}).get(ATTEMPT_OF) == job_id]
    return sorted(found, key=lambda info: info.start_time or 0)


def supervise(jobs: JobClient, job_id: str, *, pause: Callable[[float], None] = time.sleep) -> Outcome:
    """Run the task of the job `job_id`, whose process this is, until an attempt ends by itself, or none is left."""
    info = find_job(jobs, job_id)
    task, run_id = task_of(info), None
    if task is None:
        raise UsageFailure(f"job {job_id} was not submitted with --retries; there is nothing to supervise")
    num_attempts = task.retries + 1
    for number in range(1, num_attempts + 1):
        attempt_id = f"{job_id}-attempt-{number}"
        try:
            log.info("attempt %d of %d is the job %s", number, num_attempts, attempt_id)
            line, begun = _attempt(jobs, info, task, attempt_id=attempt_id, run_id=run_id)
            run_id, ended = begun or run_id, jobs.get_job_info(attempt_id)
            if not was_lost(ended):
                return _outcome(jobs, line, ended, {"attempts": number, "attempt_id": attempt_id})
            log.warning("attempt %d of %d was lost: %s", number, num_attempts, _why(ended))
            if number < num_attempts:
                pause(PAUSE_S)
        except KeyboardInterrupt:
            with suppress(RuntimeError, OSError):  # it was not submitted yet
                jobs.stop_job(attempt_id)
            raise KeyboardInterrupt(f"stopped {attempt_id}; it is not submitted again") from None
    details = {"run_id": run_id, "attempts": num_attempts}
    message = f"all {num_attempts} attempts of {job_id} were lost; submit it again, with more --retries"
    raise (Interrupted if run_id else Failure)(message, **details)


def _attempt(
    jobs: JobClient, supervisor: JobInfo, task: Task, *, attempt_id: str, run_id: str | None
) -> tuple[dict[str, Any] | None, str | None]:
    """Run an attempt to its end; returns its JSON line and the run that it began, as far as they are known."""
    metadata = {name: value for name, value in (supervisor.metadata or {}).items() if name != TASK}
    jobs.submit_job(
        entrypoint=shlex.join(task.entrypoint(run_id)),
        submission_id=attempt_id,
        runtime_env=supervisor.runtime_env,  # with the address of the uploaded code, and the variables
        entrypoint_num_cpus=task.cpus or None,
        entrypoint_resources=task.resources or None,
        metadata={**metadata, ATTEMPT_OF: str(supervisor.submission_id)},
    )
    begun: list[str] = []

    def note_run(text: str) -> None:
        begun.extend(filter(None, [run_id_in(text)]))

    line = asyncio.run(watch(jobs, attempt_id, seen=note_run))
    if not begun:  # the log broke off, and may be complete now
        note_run(log_of(jobs, find_job(jobs, attempt_id)))
    return line, (line or {}).get("run_id") or (begun[-1] if begun else None)


def _outcome(jobs: JobClient, line: dict[str, Any] | None, info: JobInfo, details: dict[str, Any]) -> Outcome:
    if state_of(info) == "STOPPED":
        raise Failure(f"{info.submission_id} was stopped; it is not submitted again", **details)
    return outcome_of(line, exit_code_of(jobs, str(info.submission_id)), details)


def _why(info: JobInfo) -> str:
    if info.driver_exit_code is None:
        return " ".join((info.message or "its process is gone").split())[:200]
    return f"its process ended with code {info.driver_exit_code}"
