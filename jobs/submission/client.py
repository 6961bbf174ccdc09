"""Ray's jobs of a cluster: the client, and a job's log, exit code and result."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jobs.cli.context import EXIT_FAILED, EXIT_INTERRUPTED, DependencyDown, Failure, Outcome, UsageFailure, log

if TYPE_CHECKING:  # seconds to import
    from ray.job_submission import JobDetails

POLL_S = 0.3
READY_S = 60.0
CHATTY = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers that list every file they do not upload."""
RESULT_KEYS = ("verb", "family", "status", "run_id", "metrics", "exit_code", "error")
"""Keys of a verb's JSON line that are not its details."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
FIRST_FATAL_SIGNAL = 131
"""Exit codes from here on are those of a shell whose program was killed; 130 is that of Ctrl-C."""
LOST = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
)
"""Ray's types of errors for a driver whose node was lost."""


class JobReader(Protocol):
    """The part of Ray's job client that follows a submitted job."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log in chunks, as it is written."""

    def get_job_info(self, job_id: str) -> JobDetails:
        """The status of the job."""

    def get_job_logs(self, job_id: str) -> str:
        """The log so far."""


class JobClient(JobReader, Protocol):
    """The part of Ray's job client that this project uses."""

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str | None,
        runtime_env: dict[str, Any] | None,
        entrypoint_num_cpus: float | None,
        entrypoint_resources: dict[str, float] | None,
        metadata: dict[str, str] | None,
    ) -> str:
        """Submit a job and return its id."""

    def list_jobs(self) -> list[JobDetails]:
        """All jobs of the cluster."""

    def stop_job(self, job_id: str) -> bool:
        """Stop the job; whether it was running."""


def submit_when_ready(jobs: JobClient, **work: Any) -> None:
    """Submit a job; a head that has just been started refuses the first ones for some seconds.

    Raises RuntimeError or ConnectionError if the cluster does not take it.
    """
    deadline = time.monotonic() + READY_S
    while True:
        try:
            jobs.submit_job(**work)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


class JobInfo(Protocol):
    """What this project reads of Ray's description of a job."""

    status: Any
    submission_id: str | None
    message: str | None
    start_time: int | None
    metadata: dict[str, str] | None
    driver_exit_code: int | None
    error_type: str | None
    runtime_env: dict[str, Any] | None


class JobFailed(Failure):
    """The verb failed on the cluster; carries its exit code."""

    def __init__(self, message: str, exit_code: int, **details: Any) -> None:
        super().__init__(message, **details)
        self.exit_code = exit_code


def job_client(url: str, headers: Mapping[str, str]) -> JobClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(url, headers=dict(headers))
    except AuthenticationError:
        raise DependencyDown(
            f"the Ray dashboard at {url} refuses the token, or wants one; RAY_AUTH_TOKEN_PATH names the file of a "
            "cluster's token, RAY_AUTH_TOKEN has the token itself"
        ) from None
    except (ConnectionError, RuntimeError) as error:
        raise DependencyDown(
            f"the Ray dashboard at {url} does not answer: {error}; start the cluster, or check the token"
        ) from error


def find_job(jobs: JobReader, job_id: str) -> JobDetails:
    """The job with this submission id; raises UsageFailure if the cluster has none."""
    try:
        return jobs.get_job_info(job_id)
    except RuntimeError as error:
        if "404" not in str(error):
            raise DependencyDown(f"the cluster does not answer for job {job_id}: {error}") from error
        raise UsageFailure(
            f"there is no job {job_id!r} on this cluster; `shopkeeper jobs` lists those that there are"
        ) from None


def log_of(jobs: JobReader, info: JobInfo) -> str:
    """The log of a job; empty for one that waits, or whose node is lost with its log."""
    if state_of(info) == "PENDING":
        return ""
    try:
        return jobs.get_job_logs(info.submission_id or "")
    except RuntimeError:
        return ""


def has_ended(info: JobInfo) -> bool:
    """Whether a job runs no more, and will not."""
    return state_of(info) in ENDED


def was_lost(info: JobInfo) -> bool:
    """Whether a job ended because its driver was killed, or told to end with its node, and not by itself."""
    if state_of(info) != "FAILED":
        return False
    code = info.driver_exit_code
    if code is None:
        return str(getattr(info.error_type, "value", info.error_type)) in LOST
    return code < 0 or code == EXIT_INTERRUPTED or code >= FIRST_FATAL_SIGNAL


def state_of(info: JobInfo) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(getattr(info.status, "value", info.status))


def exit_code_of(jobs: JobReader, job_id: str) -> int:
    """Wait for the job's exit code; EXIT_FAILED for a stopped job."""
    while True:
        info = jobs.get_job_info(job_id)
        status = state_of(info)
        if status == "SUCCEEDED":
            return 0
        if status in ("FAILED", "STOPPED"):
            if status == "FAILED" and info.driver_exit_code is None:
                log.error("%s", info.message)
            # A negative code is the signal that killed it.
            return max(info.driver_exit_code or EXIT_FAILED, EXIT_FAILED)
        time.sleep(POLL_S)


def outcome_of(line: Mapping[str, Any] | None, exit_code: int, job: Mapping[str, Any]) -> Outcome:
    content = line or {}
    details = {name: value for name, value in content.items() if name not in RESULT_KEYS} | dict(job)
    if exit_code:
        message = content.get("error", f"the job ended with exit code {exit_code}; its log is above")
        raise JobFailed(f"on the cluster: {message}", exit_code, run_id=content.get("run_id"), **details)
    return Outcome(
        status=content.get("status", "ok"),
        run_id=content.get("run_id"),
        metrics=content.get("metrics", {}),
        details=details,
    )
