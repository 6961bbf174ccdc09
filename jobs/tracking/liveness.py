"""Whether the process of a run still exists: tags that name it, and what they say on the same machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from jobs.cluster.processes import created_s, running_process

TAG_HOST = "host"
TAG_PROCESS = "process"
TAG_SUBMISSION = "submission_id"
"""The submitted job that the process is the driver of; empty if a run of a job was resumed otherwise."""


def process_tags(submission_id: str | None) -> dict[str, str]:
    """Tags of a run that this process drives: host, and pid, creation time and pid namespace."""
    pid = os.getpid()
    process = f"{pid} {created_s(pid):.2f} {_pid_namespace()}"
    return {TAG_HOST: socket.gethostname(), TAG_PROCESS: process, TAG_SUBMISSION: submission_id or ""}


def process_is_gone(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that drives a run has ended; None if that can't be told from here."""
    if tags.get(TAG_HOST) != socket.gethostname():
        return None
    try:
        pid, started_s, namespace = tags.get(TAG_PROCESS, "").split(" ")
        if namespace != _pid_namespace():
            return None
        return running_process(int(pid), float(started_s)) is None
    except ValueError:  # of an earlier release
        return None


def _pid_namespace() -> str:
    """What tells containers of one host name apart; constant on a machine, also over restarts."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "none"
