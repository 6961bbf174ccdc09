"""`shopkeeper jobs`: lists the jobs of a cluster, shows their logs, stops them, and follows them to their end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, DependencyDown, Outcome, UsageFailure, log
from jobs.cluster import connection
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import running_head
from jobs.submission.client import (
    JobClient,
    exit_code_of,
    find_job,
    has_ended,
    job_client,
    log_of,
    outcome_of,
    state_of,
)
from jobs.submission.listing import describe, table
from jobs.submission.supervisor import attempts_of, is_attempt, supervise
from jobs.submission.watching import watch
from models.family import Family

USAGE = "jobs, jobs logs [-f] ID, jobs stop ID or jobs attach ID"


@dataclass(frozen=True)
class Options:
    """Which job, and what to do with it."""

    command: tuple[str, ...] = ()
    """Nothing for the list; logs ID, stop ID or attach ID."""
    follow: bool = False
    """Of `logs`, also -f: show the log as it is written, until the job ends."""
    limit: int = 20
    """Number of jobs in the list, newest first."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """List the jobs of a cluster, or act on one."""
    words = tuple(word for word in options.command if word != "-f")
    follows = options.follow or "-f" in options.command
    if flags := [word for word in words if word.startswith("-")]:
        raise UsageFailure(f"unknown flag {flags[0]}; see `shopkeeper jobs --help`")
    match words:
        case () | ("list",):
            return _list(_client(context), options.limit)
        case ("logs", job_id):
            return _logs(_client(context), job_id, follows=follows)
        case ("stop", job_id):
            return _stop(_client(context), job_id)
        case ("attach", job_id):
            return _attach(context, _client(context), job_id)
        case ("supervise", job_id):  # what `submit --retries` runs on the cluster
            client = _client(context)
            connection.disconnect()  # what was needed to find the dashboard; a supervisor takes little
            return supervise(client, job_id)
    raise UsageFailure(f"{' '.join(['jobs', *words])!r} is not a command; use {USAGE}")


def _client(context: Context) -> JobClient:
    if context.address is None and running_head(context.store) is None:
        raise DependencyDown(
            f"no local cluster of the store {context.store.root} is running; "
            "name a cluster with --address http://HOST:8265, or another store with --store"
        )
    return job_client(*dashboard(context))


def _list(client: JobClient, limit: int) -> Outcome:
    if limit < 1:
        raise UsageFailure(f"--limit {limit} is not positive")
    jobs = [info for info in client.list_jobs() if info.submission_id]
    submitted = [info for info in jobs if not is_attempt(info)]
    newest = sorted(submitted, key=lambda info: info.start_time or 0, reverse=True)[:limit]
    rows = [describe(info, log_of(client, info), attempts=attempts_of(jobs, info)) for info in newest]
    return Outcome(details={"jobs": rows}, summary="\n".join(table(rows)))


def _logs(client: JobClient, job_id: str, *, follows: bool) -> Outcome:
    find_job(client, job_id)
    if follows:
        asyncio.run(watch(client, job_id))
    text = client.get_job_logs(job_id)
    return Outcome(details=describe(find_job(client, job_id), text), summary="" if follows else text.rstrip())


def _stop(client: JobClient, job_id: str) -> Outcome:
    """Stop a job; of one with retries the supervisor, so that none follows, then the attempt."""
    info = find_job(client, job_id)
    state, was_running = state_of(info), not has_ended(info) and client.stop_job(job_id)
    if state != "PENDING" and was_running:
        exit_code_of(client, job_id)
    attempts = [each for each in attempts_of(client.list_jobs(), info) if not has_ended(each)]
    for attempt in attempts:
        client.stop_job(str(attempt.submission_id))
    if not was_running and not attempts:
        raise UsageFailure(f"job {job_id} has ended already ({state.lower()}); there is nothing to stop")
    if waiting := [each for each in (info, *attempts) if state_of(each) == "PENDING"]:
        # Ray delivers the stop to the job's process, which does not exist yet
        summary = f"{waiting[0].submission_id} waits for resources; it ends as soon as it would start"
        return Outcome(status="stopping", details={"submission_id": job_id}, summary=summary)
    for attempt in attempts:
        exit_code_of(client, str(attempt.submission_id))
    found = describe(find_job(client, job_id), client.get_job_logs(job_id))
    return Outcome(status="stopped", run_id=found["run_id"], details=found, summary=f"stopped {job_id}")


def _attach(context: Context, client: JobClient, job_id: str) -> Outcome:
    info = find_job(client, job_id)
    if state_of(info) == "PENDING":
        log.info("%s waits: %s", job_id, info.message)
    try:
        line = asyncio.run(watch(client, job_id))
        exit_code = exit_code_of(client, job_id)
    except KeyboardInterrupt:
        again = context.command(f"jobs attach {job_id}")
        raise KeyboardInterrupt(f"no longer following {job_id}, which goes on; `{again}` follows it again") from None
    return outcome_of(line, exit_code, {"job_id": job_id})
