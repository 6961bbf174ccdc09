"""`shopkeeper submit VERB ...`: runs a verb on a cluster as a Ray job, and returns its log, result and exit code."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jobs.cli.context import EXIT_FAILED, Context, DependencyDown, Failure, Outcome, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.cluster.packages import copy_packages
from jobs.pipelines.upload import check_pipeline, with_pipeline
from models.family import Family

if TYPE_CHECKING:  # seconds to import
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 0.3
CHATTY = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers that list every file they do not upload."""
RESULT_KEYS = ("verb", "family", "status", "run_id", "metrics", "exit_code", "error")
"""Keys of a verb's JSON line that are not its details."""


@dataclass(frozen=True)
class Options:
    """The command to run on the cluster."""

    command: tuple[str, ...] = ()
    """The verb and its flags."""
    wait: bool = True
    """Follow the log until the job ends, instead of returning after submission."""
    entrypoint_cpus: float = 0.0
    """CPUs reserved for the verb's own process; its workers reserve their own."""


class JobReader(Protocol):
    """The part of Ray's job client that follows a submitted job."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log in chunks, as it is written."""

    def get_job_info(self, job_id: str) -> JobDetails:
        """The status of the job."""


class JobFailed(Failure):
    """The verb failed on the cluster; carries its exit code."""

    def __init__(self, message: str, exit_code: int, **details: Any) -> None:
        super().__init__(message, **details)
        self.exit_code = exit_code


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Submit a verb; --store is a path on the cluster."""
    _check(options.command)
    url, headers = dashboard(context)
    client = _client(url, headers)
    job_id = f"shopkeeper-{options.command[0]}-{uuid.uuid4().hex[:8]}"
    how_to_stop = f"{_token_setting(context)}ray job stop {job_id} --address {url}"
    with tempfile.TemporaryDirectory(prefix="shop-") as code:
        copy_packages(Path(code))
        command = with_pipeline(options.command, Path(code))
        try:
            client.submit_job(
                entrypoint=_entrypoint(context, command),
                submission_id=job_id,
                runtime_env=_runtime_env(context, code),
                entrypoint_num_cpus=options.entrypoint_cpus or None,
            )
        except (ConnectionError, RuntimeError) as error:
            raise Failure(f"the cluster at {url} did not accept the job: {error}") from error
    log.info("submitted %s to %s; `%s` stops it", job_id, url, how_to_stop)
    job = {"job_id": job_id, "dashboard_url": url, "submitted": shlex.join(options.command)}
    if not options.wait:
        return Outcome(status="submitted", details=job)
    try:
        line = asyncio.run(_follow(client, job_id))
        exit_code = _exit_code(client, job_id)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"no longer following {job_id}, which goes on; `{how_to_stop}` stops it") from None
    return _outcome(line, exit_code, job)


def _check(command: tuple[str, ...]) -> None:
    if not command:
        raise UsageFailure("submit needs a verb to run, e.g. `shopkeeper submit train recommender --workers 4`")
    if command[0] in ("submit", "demo", "stop"):
        raise UsageFailure(f"{command[0]!r} does not run on a cluster; omit `submit`")
    check_pipeline(command)


def _client(url: str, headers: Mapping[str, str]) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(url, headers=dict(headers))
    except (ConnectionError, RuntimeError) as error:
        raise DependencyDown(
            f"the Ray dashboard at {url} does not answer: {error}; start the cluster, or check the token"
        ) from error


def _token_setting(context: Context) -> str:
    if context.address is not None:
        return ""
    return f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(context.store.cluster / 'token'))} "


def _entrypoint(context: Context, command: tuple[str, ...]) -> str:
    # The local cluster uses this interpreter; a remote cluster's image has its own.
    python = sys.executable if context.address is None else "python"
    prefix = ["--name-prefix", context.name_prefix] if context.name_prefix else []
    return shlex.join([python, "-m", "jobs", *command, "--store", str(context.store.root), *prefix, "--json"])


def _runtime_env(context: Context, code: str) -> dict[str, Any]:
    # The code is uploaded on submission, so later edits do not affect the running job.
    settings = {"MLFLOW_TRACKING_URI": context.tracking_uri} if context.tracking_uri else {}
    return {"working_dir": code, "env_vars": settings}


async def _follow(jobs: JobReader, job_id: str) -> dict[str, Any] | None:
    """Copy the job's log to stderr as it is written; returns the JSON line at its end."""
    line, rest = None, ""
    async for chunk in jobs.tail_job_logs(job_id):
        *complete, rest = (rest + chunk).split("\n")
        for text in complete:
            line = _show_line(text) or line
    return _show_line(rest) or line


def _show_line(text: str) -> dict[str, Any] | None:
    """Parse the verb's JSON line; any other line is written to stderr and gives None."""
    if text.startswith('{"verb"'):
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if isinstance(content, dict):
            return content
    if text:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    return None


def _exit_code(jobs: JobReader, job_id: str) -> int:
    """Wait for the job's exit code; EXIT_FAILED for a stopped job."""
    while True:
        info = jobs.get_job_info(job_id)
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status in ("FAILED", "STOPPED"):
            if info.driver_exit_code is None:
                log.error("%s", info.message)
            # A negative code is the signal that killed it.
            return max(info.driver_exit_code or EXIT_FAILED, EXIT_FAILED)
        time.sleep(POLL_S)


def _outcome(line: Mapping[str, Any] | None, exit_code: int, job: Mapping[str, Any]) -> Outcome:
    content = line or {}
    details = {name: value for name, value in content.items() if name not in RESULT_KEYS} | dict(job)
    if exit_code:
        message = content.get("error", f"the job ended with exit code {exit_code}; its log is above")
        raise JobFailed(f"on the cluster: {message}", exit_code, **details)
    return Outcome(
        status=content.get("status", "ok"),
        run_id=content.get("run_id"),
        metrics=content.get("metrics", {}),
        details=details,
    )
