"""The one process that serves a store in the foreground: at most one runs, and `stop` ends it first."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.cli.context import Failure, Store, UsageFailure
from jobs.cluster.processes import created_s, ends, running_process

STOP_TIMEOUT_S = 90.0


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Be the process that serves the store until the block ends; raises UsageFailure if another one is."""
    path = _lock_path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageFailure(
                f"process {_recorded(path)[0]} serves the store {store.root} already; end it before you start another"
            ) from None
        lock.truncate(0)
        json.dump([os.getpid(), created_s(os.getpid())], lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def end_foreground(store: Store) -> bool:
    """Let the process that serves the store stop, with its cluster; returns whether there was one.

    Raises Failure if it does not end.
    """
    pid, started_s = _recorded(_lock_path(store))
    if not pid or running_process(pid, started_s) is None:
        return False
    if not ends(pid, started_s, timeout_s=STOP_TIMEOUT_S):
        raise Failure(
            f"process {pid}, which serves the store, did not stop within {STOP_TIMEOUT_S:.0f} s; "
            f"end it with `kill -9 {pid}` and run this again"
        )
    return True


def _lock_path(store: Store) -> Path:
    return store.cluster / "serve.lock"


def _recorded(path: Path) -> tuple[int, float]:
    """Pid and creation time of the process that holds the lock; zeros if there is none."""
    try:
        pid, started_s = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0.0
    return int(pid), float(started_s)
