"""Background processes: found again by pid and creation time, and stopped with their children.

Uses the psutil that is bundled with Ray.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

MAX_AGE_DIFFERENCE_S = 1.0


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


def _psutil() -> Any:
    import ray  # noqa: F401  puts its bundled psutil on the search path

    return importlib.import_module("psutil")
