"""Runs a verb as a child process: output to a log, result to a file, a time limit; it does not outlive its parent.

A process of its own, and not a call: it can be stopped after a time limit, its libraries start from nothing and give
back their memory, what it writes belongs to its step, and it behaves as the same command typed by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jobs.cluster.packages import search_path
from jobs.cluster.processes import created_s, ended_with_parent

STOP_S = 60.0
"""For an interrupted verb to end by itself: a training stops after its step."""
START = "import sys; sys.path[:0] = {path}; from jobs.__main__ import main; sys.exit(main())"
TAIL_LINES = 15
TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Ended:
    """How a verb ended."""

    exit_code: int
    """Negative for the number of the signal that killed it."""
    line: dict[str, Any]
    """Its JSON line; empty if it did not write one."""
    timed_out: bool = False


class Runner(Protocol):
    """Runs a verb; tests have one without processes."""

    def __call__(
        self, words: Sequence[str], *, log: Path, timeout_s: float | None, started: Callable[[int, float], None]
    ) -> Ended:
        """Run a command line and wait for its end; `started` is told pid and creation time."""


def run_verb(
    words: Sequence[str], *, log: Path, timeout_s: float | None, started: Callable[[int, float], None]
) -> Ended:
    """Run a command line in a process of its own; a KeyboardInterrupt stops it first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-c", START.format(path=search_path()), *words, "--json"]
    with _private(log) as errors, _private(result_path(log)) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            preexec_fn=ended_with_parent(),
        )
        try:
            started(process.pid, created_s(process.pid))
            exit_code, timed_out = process.wait(timeout_s), False
        except subprocess.TimeoutExpired:
            exit_code, timed_out = _stopped(process), True
        finally:
            if process.poll() is None:  # interrupted, or the record could not be written
                _stopped(process)
    return Ended(exit_code, read_result(log), timed_out)


def result_path(log: Path) -> Path:
    """The file with the JSON line, next to the log; it is there even if nobody waited for the verb."""
    return log.with_suffix(".json")


def read_result(log: Path) -> dict[str, Any]:
    """The JSON line of a verb; empty if there is none."""
    try:
        lines = result_path(log).read_text(encoding="utf-8").strip().splitlines()
        found = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-TAIL_LINES:])


def _stopped(process: subprocess.Popen[bytes]) -> int:
    """Interrupt a verb and wait for it; a second Ctrl-C, or the time, kills it and what it started."""
    try:
        process.terminate()
        return process.wait(STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


@contextlib.contextmanager
def _private(path: Path) -> Any:
    """A file for writing that only its owner can read, as a log may quote data."""
    path.touch(mode=0o600)
    with path.open("wb") as file:
        yield file
