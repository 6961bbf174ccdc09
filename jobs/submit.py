"""`shopkeeper submit VERB ...`: runs a verb on a cluster as a Ray job, and returns its log, result and exit code."""

from __future__ import annotations

import asyncio
import math
import re
import shlex
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.__main__ import check_settings, read
from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cli.flags import UNSPLIT, HelpRequested, UsageError
from jobs.cli.verbs import VERBS
from jobs.cluster.connection import dashboard
from jobs.cluster.packages import copy_packages
from jobs.pipelines.upload import check_pipeline, with_pipeline
from jobs.submission import forwarded
from jobs.submission.client import exit_code_of, job_client, outcome_of, submit_when_ready
from jobs.submission.supervisor import ON_THE_HEAD, Task
from jobs.submission.watching import watch
from jobs.tracking.runs import git_commit
from models.errors import PluginRejected
from models.family import Family
from models.raw.tables import without_secrets

OWN_FLAGS = {
    "CPU": "use --entrypoint-cpus",
    "GPU": "the verb's own process needs none; use --gpu of the verb for its workers",
    "memory": "Ray knows memory by another flag than resources; name a node type by a resource of its own",
}
"""Resources that are not reserved by name."""
NOT_SUBMITTED = ("submit", "demo", "stop", "jobs", "ui")


@dataclass(frozen=True)
class Options:
    """The command to run on the cluster."""

    command: tuple[str, ...] = ()
    """The verb and its flags."""
    wait: bool = True
    """Follow the log until the job ends, instead of returning after submission."""
    entrypoint_cpus: float | None = None
    """CPUs reserved for the verb's own process, so that it runs on a node that has some; its workers reserve their own.
    Unset: 1 on a cluster named by --address."""
    entrypoint_resources: tuple[str, ...] = field(default=(), metadata=UNSPLIT)
    """NAME=AMOUNT of another resource reserved for it, such as driver=1: the on-demand nodes of cluster.yaml. Repeat
    the flag for several."""
    submission_id: str | None = None
    """Id of the job; default is made up."""
    env: tuple[str, ...] = field(default=(), metadata=UNSPLIT)
    """NAME=VALUE, or NAME for the value that it has here: an environment variable of the job. Repeat the flag for
    several. Ray writes the values to the log runtime_env_agent.log of the cluster's nodes."""
    metadata: tuple[str, ...] = field(default=(), metadata=UNSPLIT)
    """KEY=VALUE, shown in the list of jobs and on the dashboard. Repeat the flag for several."""
    retries: int = 0
    """How often the job is submitted again, with --resume where the verb has it, after its process was killed or its
    node lost."""
    check: bool = True
    """Check the flags of the verb before anything is uploaded; not possible for a family that only the cluster has."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Submit a verb; --store is a path on the cluster."""
    _check(context, options)
    commit, job_id = git_commit(), options.submission_id or f"shopkeeper-{options.command[0]}-{uuid.uuid4().hex[:8]}"
    variables = forwarded.environment_variables(options.env)
    if context.tracking_uri:
        variables["MLFLOW_TRACKING_URI"] = context.tracking_uri
    known = {"submission_id": job_id} | ({} if commit == "unknown" else {"git_commit": commit})
    own = {"verb": options.command[0], "family": _family_of(options.command), "store": str(context.store.root), **known}
    metadata = forwarded.metadata(options.metadata, own)
    url, headers = dashboard(context)
    client = job_client(url, headers)
    with tempfile.TemporaryDirectory(prefix="shop-") as code:
        copy_packages(Path(code))
        set_by_us = {forwarded.SUBMISSION_ID: job_id} | ({} if commit == "unknown" else {forwarded.GIT_COMMIT: commit})
        # The code is uploaded on submission, so later edits do not affect the running job.
        runtime_env = {"working_dir": code, "env_vars": variables | set_by_us}
        work = _work(context, options, with_pipeline(options.command, Path(code)), job_id=job_id, metadata=metadata)
        try:
            submit_when_ready(client, submission_id=job_id, runtime_env=runtime_env, **work)
        except (ConnectionError, RuntimeError) as error:
            reason = forwarded.hidden(str(error), variables)
            if "already exists" in reason:
                taken = f"--submission-id {job_id}: the cluster has a job of this id; choose another"
                raise UsageFailure(taken) from None
            raise Failure(f"the cluster at {url} did not accept the job: {reason}") from None
    if options.env:
        names = ", ".join(sorted(variables))
        log.warning("sent along: %s; Ray writes the values to runtime_env_agent.log on the cluster's nodes", names)
    return _submitted(context, client, options, job_id=job_id, url=url)


def _submitted(context: Context, client: Any, options: Options, *, job_id: str, url: str) -> Outcome:
    how_to_stop = context.command(f"jobs stop {job_id}")
    log.info("submitted %s to %s; `%s` stops it", job_id, url, how_to_stop)
    job = {"job_id": job_id, "dashboard_url": url, "submitted": shlex.join(options.command)}
    if not options.wait:
        return Outcome(status="submitted", details=job)
    try:
        line = asyncio.run(watch(client, job_id))
        exit_code = exit_code_of(client, job_id)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"no longer following {job_id}, which goes on; `{how_to_stop}` stops it") from None
    return outcome_of(line, exit_code, job)


def _check(context: Context, options: Options) -> None:
    """Raise UsageFailure for what the verb itself would refuse on the cluster."""
    command, job_id = options.command, options.submission_id
    if options.retries < 0:
        raise UsageFailure(f"--retries {options.retries} is negative; use 0 or more")
    cpus = options.entrypoint_cpus
    if cpus is not None and not 0 <= cpus < math.inf:
        raise UsageFailure(f"--entrypoint-cpus {cpus:g} is no number of CPUs; use 0 or more")
    _amounts(options.entrypoint_resources)
    if not command:
        for flag, words in {"--env": options.env, "--metadata": options.metadata}.items():
            if words and words[-1] in VERBS:
                raise UsageFailure(f"{flag} {words[-1]}: this flag takes a word, here the verb; give both")
        raise UsageFailure("submit needs a verb to run, e.g. `shopkeeper submit train recommender --workers 4`")
    if command[0] in NOT_SUBMITTED:
        raise UsageFailure(f"{command[0]!r} does not run on a cluster; omit `submit`")
    if job_id is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", job_id):
        raise UsageFailure(f"--submission-id {job_id!r} may have letters, digits, and . _ - after the first only")
    for word in command:
        if without_secrets(word) != word:
            raise UsageFailure(
                f"{without_secrets(word)} contains credentials, which the dashboard would show to all; "
                "take them out and set them as variables, such as AWS_ACCESS_KEY_ID, which submit sends along"
            )
    check_pipeline(command)
    if not options.check:
        return
    try:
        check_settings(read([*command, *_common_flags(context)]))
    except (UsageError, UsageFailure, PluginRejected) as error:
        raise UsageFailure(f"nothing was submitted: {error} (--no-check submits it all the same)") from None
    except HelpRequested:
        raise UsageFailure(f"--help is not submitted; see `shopkeeper {command[0]} --help`") from None


def _family_of(command: tuple[str, ...]) -> str:
    return command[1] if len(command) > 1 and not command[1].startswith("-") else ""


def _work(
    context: Context, options: Options, command: tuple[str, ...], *, job_id: str, metadata: dict[str, str]
) -> dict[str, Any]:
    """What the job runs, and where: the verb, or its supervisor."""
    # The local cluster uses this interpreter; a remote cluster's image has its own.
    before = (sys.executable if context.address is None else "python", "-m", "jobs")
    default_cpus = 0.0 if context.address is None else 1.0
    task = Task(
        command=command,
        before=before,
        after=tuple(_common_flags(context)),
        retries=options.retries,
        cpus=default_cpus if options.entrypoint_cpus is None else options.entrypoint_cpus,
        resources=_amounts(options.entrypoint_resources),
    )
    if not options.retries:
        entrypoint, cpus, resources = task.entrypoint(None), task.cpus or None, task.resources or None
    else:
        entrypoint, cpus, resources = (*before, "jobs", "supervise", job_id, *task.after), None, ON_THE_HEAD
        metadata = metadata | task.to_metadata()
    return {
        "entrypoint": shlex.join(entrypoint),
        "entrypoint_num_cpus": cpus,
        "entrypoint_resources": resources,
        "metadata": metadata,
    }


def _amounts(given: tuple[str, ...]) -> dict[str, float]:
    """NAME=AMOUNT pairs; raises UsageFailure for others."""
    found = {}
    for pair in given:
        name, _, amount = pair.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < math.inf:
            raise UsageFailure(f"--entrypoint-resources {pair!r} is not NAME=AMOUNT, such as driver=1")
        if name in OWN_FLAGS:
            raise UsageFailure(f"--entrypoint-resources {pair}: {OWN_FLAGS[name]}")
    return found


def _common_flags(context: Context) -> list[str]:
    prefix = ["--name-prefix", context.name_prefix] if context.name_prefix else []
    return ["--store", str(context.store.root), *prefix, "--json"]
