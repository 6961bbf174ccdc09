"""Follows a submitted job to its end, also where its node or its cluster is away for a while, or for good."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from jobs.cli.context import DependencyDown, Interrupted, log
from jobs.submission.client import JobReader, find_job, has_ended, log_of

POLL_S = 1.0
MAX_LATENESS_S = 10.0
"""Of the end of a log, after the end of its job."""
SILENCE_S = 20.0
"""Until it is said that a cluster does not answer."""
MAX_SILENCE_S = 900.0
"""Until it counts as lost: a head has been started again by then."""
RUN_STARTED = re.compile(r"\brun ([0-9a-f]{32}) in ")


class Silence:
    """How long a cluster has not answered for a job."""

    def __init__(self, job_id: str, *, limit_s: float = MAX_SILENCE_S, said_after_s: float = SILENCE_S) -> None:
        self._job_id, self._limit_s, self._said_after_s = job_id, limit_s, said_after_s
        self._since: float | None = None
        self._is_said = False
        self.run_id: str | None = None
        """The run of the job, as far as its log has said."""

    def ended(self) -> None:
        """The cluster has answered."""
        if self._is_said:
            log.info("the cluster answers again")
        self._since, self._is_said = None, False

    def goes_on(self, error: Exception) -> None:
        """It did not answer; raises DependencyDown after too long, Interrupted if it has lost the job."""
        if "404" in str(error):
            raise Interrupted(
                f"the cluster has no job {self._job_id} any more: its control service has lost its state, which Redis "
                f"would keep; {self._remedy()}",
                **self._details(),
            )
        self._since = time.monotonic() if self._since is None else self._since
        silent_s = time.monotonic() - self._since
        if silent_s > self._limit_s:
            raise DependencyDown(
                f"the cluster has not answered for {silent_s / 60:.0f} minutes ({error}); job {self._job_id} may go on "
                f"where it does: `jobs attach {self._job_id}` follows it again; if it is lost, {self._remedy()}",
                **self._details(),
            )
        if silent_s > self._said_after_s and not self._is_said:
            self._is_said = True
            log.warning(
                "the cluster has not answered for %.0f s (%s); waiting for up to %.0f minutes, the job may go on",
                silent_s,
                " ".join(str(error).split())[:200],
                self._limit_s / 60,
            )

    def _remedy(self) -> str:
        run = self.run_id or "RUN_ID"
        return f"submit it again, `train` and `sweep` with --resume {run}, which goes on after its last epoch"

    def _details(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "resume": self.run_id} if self.run_id else {}


async def follow(jobs: JobReader, job_id: str, *, seen: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Copy the job's log to stderr as it is written, and each line to `seen`; returns the JSON line at its end."""
    line, rest = None, ""
    async for chunk in jobs.tail_job_logs(job_id):
        *complete, rest = (rest + chunk).split("\n")
        for text in complete:
            line = show_line(text) or line
            if seen is not None:
                seen(text)
    return show_line(rest) or line


async def watch(
    jobs: JobReader,
    job_id: str,
    *,
    seen: Callable[[str], None] | None = None,
    poll_s: float = POLL_S,
    max_lateness_s: float = MAX_LATENESS_S,
    silence: Silence | None = None,
) -> dict[str, Any] | None:
    """Like `follow`, to the end of the job, which may be that of its node: its log is then lost.

    What serves the log may hang then. The cluster may be away for a while, see `Silence`.
    """
    from aiohttp import ClientError  # of Ray's client

    silence = silence or Silence(job_id)

    def note(text: str) -> None:
        silence.run_id = run_id_in(text) or silence.run_id
        if seen is not None:
            seen(text)

    following = asyncio.create_task(follow(jobs, job_id, seen=note))
    try:
        while not await asyncio.to_thread(_has_ended, jobs, job_id, silence):
            await asyncio.sleep(poll_s)
        await asyncio.wait([following], timeout=max_lateness_s)
    finally:
        following.cancel()
    try:
        return await following
    except (asyncio.CancelledError, RuntimeError, OSError, ClientError) as error:
        log.warning("the log of %s broke off (%s)", job_id, type(error).__name__)
    text = await asyncio.to_thread(lambda: log_of(jobs, find_job(jobs, job_id)))
    return result_in(text) or None


def result_in(log_text: str) -> dict[str, Any]:
    """The JSON line at the end of a verb's log; empty if it has not ended, or was killed."""
    for line in reversed(log_text.splitlines()):
        if line.startswith('{"verb"'):
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                return content
    return {}


def run_id_in(log_text: str) -> str | None:
    """The tracked run that a verb's log says it has begun."""
    found = RUN_STARTED.findall(log_text)
    return found[-1] if found else None


def _has_ended(jobs: JobReader, job_id: str, silence: Silence) -> bool:
    """Whether a job has ended; not while the cluster does not answer, which may pass."""
    try:
        ended = has_ended(jobs.get_job_info(job_id))
    except (RuntimeError, OSError) as error:
        silence.goes_on(error)
        return False
    silence.ended()
    return ended


def show_line(text: str) -> dict[str, Any] | None:
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
