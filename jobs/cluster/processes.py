"""Background processes: found again by pid and creation time, and stopped with their children.

Uses the psutil that is bundled with Ray.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_AGE_DIFFERENCE_S = 1.0
MAX_KILLS = 3
PR_SET_PDEATHSIG = 1
STORE_VARIABLE = "SHOPKEEPER_CLUSTER_OF"
"""Environment variable of the processes of a local cluster: the store that started it."""
DIRECTORY_VARIABLE = "SHOPKEEPER_CLUSTER_DIRECTORY"
"""Environment variable of the same processes: the cluster's private directory, which no other cluster has."""
FORMER_VARIABLE = "RAY_SERVE_HAPROXY_SERVER_STATE_BASE"
"""Release 0.3.0 did not set the former, but this one, to a directory in there."""


def created_s(pid: int) -> float:
    """Creation time of a process in epoch seconds."""
    return float(_psutil().Process(pid).create_time())


def age_of_process_s() -> float:
    """How long this process has been running; 0 where the kernel does not say."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0


def running_process(pid: int, started_s: float) -> Any:
    """The process with this pid and creation time, or None; guards against reused pids."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        is_ours = abs(process.create_time() - started_s) < MAX_AGE_DIFFERENCE_S
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def ends(pid: int, started_s: float, *, timeout_s: float) -> bool:
    """Terminate a process and wait for its end; returns whether it ended."""
    process = running_process(pid, started_s)
    if process is None:
        return True
    with suppress(_psutil().NoSuchProcess):
        process.terminate()
    _, alive = _psutil().wait_procs([process], timeout=timeout_s)
    return not alive


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


def descendants(pid: int, *, name: str) -> list[Any]:
    """The processes below a process whose name starts with `name`; psutil's, and none if there is no such process."""
    psutil = _psutil()
    with suppress(psutil.NoSuchProcess):
        return [each for each in psutil.Process(pid).children(recursive=True) if _has_name(each, name)]
    return []


def members(directory: Path) -> list[Any]:
    """The live processes of the cluster with this private directory, wherever they are in the process tree."""
    psutil, found = _psutil(), []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            is_other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if is_other and _belongs(process, directory):
                found.append(process)
    return found


def end_members(directory: Path, *, timeout_s: float) -> int:
    """End what is left of a cluster, such as an HAProxy without a parent; returns the number of processes."""
    psutil, left = _psutil(), members(directory)
    num_left = len(left)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(left, timeout=timeout_s)
    for _ in range(MAX_KILLS):  # a process may start another while it is being ended
        left = members(directory)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=timeout_s)
    return num_left


@dataclass(frozen=True)
class Holder:
    """A process that listens on a port, in words, and the store whose cluster it belongs to, if it is of one."""

    process: str
    store: str | None


def holder(port: int) -> Holder | None:
    """The process that listens on a TCP port; None if there is none or this user may not see it."""
    psutil = _psutil()
    with suppress(psutil.Error):
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
                process = psutil.Process(found.pid)
                return Holder(f"{process.name()} (process {found.pid})", _store_of(process))
    return None


def listener(port: int) -> str | None:
    """The same in words."""
    found = holder(port)
    if found is None:
        return None
    return f"{found.process[:-1]}, of the store {found.store})" if found.store else found.process


def _store_of(process: Any) -> str | None:
    with suppress(_psutil().Error):
        store: str | None = process.environ().get(STORE_VARIABLE)
        return store
    return None


def _has_name(process: Any, start: str) -> bool:
    with suppress(_psutil().Error):
        return str(process.name()).startswith(start)
    return False


def _belongs(process: Any, directory: Path) -> bool:
    environment = process.environ()
    former = environment.get(FORMER_VARIABLE, "").removesuffix("/haproxy")
    owner = environment.get(DIRECTORY_VARIABLE) or former
    # Ray's agents overwrite their environment with their title; like all of Ray's processes they work in there.
    is_titled = not owner and "".join(process.cmdline()).startswith("ray::")
    return owner == str(directory) or (is_titled and Path(process.cwd()).is_relative_to(directory))


def _psutil() -> Any:
    """The psutil that Ray brings along, without the second that importing Ray takes."""
    found = importlib.util.find_spec("ray")
    if found is not None and found.origin is not None:
        bundled = str(Path(found.origin).parent / "thirdparty_files")
        if bundled not in sys.path:
            sys.path.append(bundled)
    return importlib.import_module("psutil")


def ended_with_parent() -> Callable[[], None] | None:
    """For a child to call before its program starts: the kernel then terminates it when its parent dies.

    None where that is not possible, which is everywhere but on Linux.
    """
    prctl, parent = prctl_of_linux(), os.getpid()
    if prctl is None:
        return None

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died meanwhile
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def prctl_of_linux() -> Any | None:
    """The system call prctl(2); None on another system."""
    return getattr(ctypes.CDLL(None), "prctl", None)
