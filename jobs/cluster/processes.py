"""Background processes: found again by pid and creation time, and stopped with their children.

Uses the psutil that is bundled with Ray.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

MAX_AGE_DIFFERENCE_S = 1.0
STORE_VARIABLE = "SHOPKEEPER_CLUSTER_OF"
"""Environment variable of the processes of a local cluster: the store that started it."""
DIRECTORY_VARIABLE = "SHOPKEEPER_CLUSTER_DIRECTORY"
"""Environment variable of the same processes: the cluster's private directory, which no other cluster has."""
FORMER_VARIABLE = "RAY_SERVE_HAPROXY_SERVER_STATE_BASE"
"""Release 0.3.0 did not set the former, but this one, to a directory in there."""


def created_s(pid: int) -> float:
    """Creation time of a process in epoch seconds."""
    return float(_psutil().Process(pid).create_time())


def running_process(pid: int, started_s: float) -> Any:
    """The process with this pid and creation time, or None; guards against reused pids."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        is_ours = abs(process.create_time() - started_s) < MAX_AGE_DIFFERENCE_S
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def end_tree(pid: int, *, timeout_s: float) -> None:
    """Terminate a process, wait for it, then kill it and its descendants if they still run."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    psutil.wait_procs([process], timeout=timeout_s)
    left = [one for one in tree if one.is_running()]
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=timeout_s)


def members(directory: Path) -> list[Any]:
    """The live processes of the cluster with this private directory, wherever they are in the process tree."""
    psutil, found = _psutil(), []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ() if process.pid != os.getpid() else {}
            former = environment.get(FORMER_VARIABLE, "")
            owner = environment.get(DIRECTORY_VARIABLE) or former.removesuffix("/haproxy")
            if owner == str(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_members(directory: Path, *, timeout_s: float) -> int:
    """End what is left of a cluster, such as an HAProxy without a parent; returns the number of processes."""
    psutil, ended = _psutil(), 0
    while left := members(directory):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate() if not ended else process.kill()
        ended += len(left) if not ended else 0
        psutil.wait_procs(left, timeout=timeout_s)
    return ended


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, in words; None if there is none or this user may not see it."""
    psutil = _psutil()
    with suppress(psutil.Error):
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
                return _in_words(psutil.Process(found.pid))
    return None


def _in_words(process: Any) -> str:
    store = None
    with suppress(_psutil().Error):
        store = process.environ().get(STORE_VARIABLE)
    return f"{process.name()} (process {process.pid}{f', of the store {store}' if store else ''})"


def _psutil() -> Any:
    """The psutil that Ray brings along, without the second that importing Ray takes."""
    found = importlib.util.find_spec("ray")
    if found is not None and found.origin is not None:
        bundled = str(Path(found.origin).parent / "thirdparty_files")
        if bundled not in sys.path:
            sys.path.append(bundled)
    return importlib.import_module("psutil")
