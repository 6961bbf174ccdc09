"""Turns of pipelines: each runs once at a time, and of all pipelines of a store as many as its limit, in order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from jobs.cli.context import Store, UsageFailure, log
from jobs.pipelines.records import root

POLL_S = 1.0
GLANCES, GLANCE_S = 3, 0.05
QUEUE = "queue"
NUMBER_DIGITS = 12


@contextlib.contextmanager
def turn(store: Store, name: str, *, at_once: int, waits: bool, pause: Callable[[float], None]) -> Iterator[None]:
    """Hold the turn of a pipeline until the block ends.

    Waits while `at_once` others, which came before, are running or waiting. Raises UsageFailure if this pipeline is
    running, or if others are and it is not to wait. The locks end with the process, however it ends.
    """
    path = root(store) / name / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as own:
        for _ in range(GLANCES):
            if is_held := _locked(own):
                break
            pause(GLANCE_S)  # `status` may be looking at it
        if not is_held:
            raise UsageFailure(
                f"the pipeline {name} is running already ({_holder(path)}); nothing was run. "
                f"`shopkeeper pipeline status {name}` shows it"
            )
        _sign(own, name)
        with _ticket(store, name) as number:
            told = None
            while len(ahead := _ahead(store, number)) >= at_once:
                if not waits:
                    raise UsageFailure(f"{_listed(ahead)} run in this store already; nothing was run, see --at-once")
                if told != ahead:
                    log.info("waiting for %s (--at-once %d)", _listed(ahead), at_once)
                    told = ahead
                pause(POLL_S)
            yield


def is_running(store: Store, name: str) -> str | None:
    """The process that runs a pipeline or waits to, in words; None if there is none."""
    path = root(store) / name / "lock"
    try:
        with path.open("r+", encoding="utf-8") as lock:
            return None if _locked(lock) else _holder(path)
    except OSError:
        return None


@contextlib.contextmanager
def _ticket(store: Store, name: str) -> Iterator[int]:
    """A place in the queue; its number grows, and its file is locked as long as its owner lives."""
    directory = root(store) / QUEUE
    directory.mkdir(parents=True, exist_ok=True)
    with _guarded(directory):
        number = max((_number(path) for path in directory.glob("*.ticket")), default=0) + 1
        path = directory / f"{number:0{NUMBER_DIGITS}d}.ticket"
        file = path.open("w", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file, name)
    try:
        yield number
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _ahead(store: Store, number: int) -> list[str]:
    """The pipelines with lower numbers; tickets of processes that ended are removed."""
    directory = root(store) / QUEUE
    found = []
    with _guarded(directory):
        for path in sorted(directory.glob("*.ticket")):
            if _number(path) >= number:
                continue
            with path.open("r+", encoding="utf-8") as file:
                if _locked(file):
                    path.unlink(missing_ok=True)
                else:
                    found.append(_holder(path))
    return found


@contextlib.contextmanager
def _guarded(directory: Path) -> Iterator[None]:
    """One process at a time looks at the queue, so that no ticket is seen before it is locked."""
    with (directory / "guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: TextIO, name: str) -> None:
    file.truncate(0)
    json.dump({"pipeline": name, "host": socket.gethostname(), "pid": os.getpid()}, file)
    file.flush()


def _holder(path: Path) -> str:
    """Who signed a lock, in words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"{found['pipeline']}, process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being signed
        return "a process that has just started"


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _listed(holders: list[str]) -> str:
    return " and ".join(holders)
