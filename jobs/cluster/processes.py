"""Background processes: found again by pid and creation time, and stopped with their children.

Uses the psutil that is bundled with Ray.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_AGE_DIFFERENCE_S = 1.0
STORE_VARIABLE = "SHOPKEEPER_CLUSTER_OF"
"""Environment variable of the processes of a local cluster: the store that started it."""


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


def listener(port: int) -> str | None:
    """The process that listens on a TCP port, in words; None if there is none or this user may not see it."""
    psutil = _psutil()
    with suppress(psutil.Error):
        for found in psutil.net_connections(kind="tcp"):
            if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
                return _in_words(psutil.Process(found.pid))
    return None


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


def _store_of(process: Any) -> str | None:
    with suppress(_psutil().Error):
        store: str | None = process.environ().get(STORE_VARIABLE)
        return store
    return None


def _has_name(process: Any, start: str) -> bool:
    with suppress(_psutil().Error):
        return str(process.name()).startswith(start)
    return False


def _in_words(process: Any) -> str:
    store = None
    with suppress(_psutil().Error):
        store = process.environ().get(STORE_VARIABLE)
    return f"{process.name()} (process {process.pid}{f', of the store {store}' if store else ''})"


def _psutil() -> Any:
    try:
        return importlib.import_module("psutil")
    except ModuleNotFoundError:
        ray = importlib.util.find_spec("ray")  # importing it takes a second
        assert ray is not None and ray.origin is not None, "Ray is not installed"
        sys.path.append(str(Path(ray.origin).with_name("thirdparty_files")))
        return importlib.import_module("psutil")
