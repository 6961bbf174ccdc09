"""`shopkeeper submit VERB ...`: runs any verb on a cluster as a Ray job, with its log, its answer and its exit code."""

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
from models.family import Family

if TYPE_CHECKING:  # seconds to import
    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 0.3
CHATTY = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers that name every file which is not uploaded."""
OF_THE_LINE = ("verb", "family", "status", "run_id", "metrics", "exit_code", "error")
"""Members of a verb's JSON line that are not its details."""


@dataclass(frozen=True)
class Options:
    """What to run there."""

    command: tuple[str, ...] = ()
    """The verb and its flags."""
    wait: bool = True
    """Follow the log until the job ends; without it, return when the job is submitted."""
    entrypoint_cpus: float = 0.0
    """Cores reserved for the verb's own process; its workers ask for theirs."""


class JobReader(Protocol):
    """What is asked of Ray's client about a job that was submitted."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """The log in pieces, as it comes."""

    def get_job_info(self, job_id: str) -> JobDetails:
        """How the job is getting on."""


class JobFailed(Failure):
    """The verb failed on the cluster; has the exit code that it had there."""

    def __init__(self, message: str, exit_code: int, **details: Any) -> None:
        super().__init__(message, **details)
        self.exit_code = exit_code


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Submit a verb; the store is the path given by --store, as the cluster sees it."""
    _check(options.command)
    url, headers = dashboard(context)
    client = _client(url, headers)
    job_id = f"shopkeeper-{options.command[0]}-{uuid.uuid4().hex[:8]}"
    how_to_stop = f"{_token_setting(context)}ray job stop {job_id} --address {url}"
    with tempfile.TemporaryDirectory(prefix="shop-") as code:
        copy_packages(Path(code))
        try:
            client.submit_job(
                entrypoint=_entrypoint(context, options.command),
                submission_id=job_id,
                runtime_env=_runtime_env(context, code),
                entrypoint_num_cpus=options.entrypoint_cpus or None,
            )
        except (ConnectionError, RuntimeError) as error:
            raise Failure(f"the cluster at {url} did not take the job: {error}") from error
    log.info("submitted %s to %s; `%s` stops it", job_id, url, how_to_stop)
    place = {"job_id": job_id, "dashboard_url": url, "submitted": shlex.join(options.command)}
    if not options.wait:
        return Outcome(status="submitted", details=place)
    try:
        line = asyncio.run(_follow(client, job_id))
        exit_code = _exit_code(client, job_id)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"no longer following {job_id}, which goes on; `{how_to_stop}` stops it") from None
    return _outcome(line, exit_code, place)


def _check(command: tuple[str, ...]) -> None:
    if not command:
        raise UsageFailure("submit needs a verb to run there, e.g. `shopkeeper submit train recommender --workers 4`")
    if command[0] in ("submit", "demo", "stop"):
        raise UsageFailure(f"{command[0]!r} does not run on a cluster; leave out `submit`")


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
    # On this machine the interpreter is this one; a cluster's image brings its own.
    python = sys.executable if context.address is None else "python"
    return shlex.join([python, "-m", "jobs", *command, "--store", str(context.store.root), "--json"])


def _runtime_env(context: Context, code: str) -> dict[str, Any]:
    # Uploaded as the job is submitted: what is edited here while it runs changes nothing there.
    settings = {"MLFLOW_TRACKING_URI": context.tracking_uri} if context.tracking_uri else {}
    return {"working_dir": code, "env_vars": settings}


async def _follow(jobs: JobReader, job_id: str) -> dict[str, Any] | None:
    """Show the job's log on stderr as it comes; returns the JSON line that ends it."""
    line, rest = None, ""
    async for chunk in jobs.tail_job_logs(job_id):
        *complete, rest = (rest + chunk).split("\n")
        for text in complete:
            line = _shown(text) or line
    return _shown(rest) or line


def _shown(text: str) -> dict[str, Any] | None:
    """The verb's JSON line, or None for any other, which is shown."""
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
    """The job's exit code, once it has one; EXIT_FAILED for a job that was stopped."""
    while True:
        info = jobs.get_job_info(job_id)
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status in ("FAILED", "STOPPED"):
            if info.driver_exit_code is None:
                log.error("%s", info.message)
            # A negative code is the signal that ended it.
            return max(info.driver_exit_code or EXIT_FAILED, EXIT_FAILED)
        time.sleep(POLL_S)


def _outcome(line: Mapping[str, Any] | None, exit_code: int, place: Mapping[str, Any]) -> Outcome:
    content = line or {}
    details = {name: value for name, value in content.items() if name not in OF_THE_LINE} | dict(place)
    if exit_code:
        message = content.get("error", f"the job ended with exit code {exit_code}; its log is above")
        raise JobFailed(f"on the cluster: {message}", exit_code, **details)
    return Outcome(
        status=content.get("status", "ok"),
        run_id=content.get("run_id"),
        metrics=content.get("metrics", {}),
        details=details,
    )
