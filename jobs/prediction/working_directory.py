"""Working directories of batch prediction: the unfinished parts of an output, locked while a process works on them.

The directory is next to the output, so that a rename publishes it, and is named `.<output>.<16 digits of the key>`, the
key being that of the plan. Only directories that have such a name and hold a plan are ever removed.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from jobs.cli.context import UsageFailure, log
from models.files import write_text

PLAN = "_plan.json"
"""File with the plan's key; Parquet readers skip names with an underscore."""
LOCK = "_lock"
"""Locked with flock(2) by the process that works on the directory; the lock ends with the process."""
KEY_DIGITS = 16
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


def path_of(output: Path, key: str) -> Path:
    """The working directory of the plan with this key."""
    return output.with_name(f".{output.name}.{key[:KEY_DIGITS]}")


@contextmanager
def opened(output: Path, key: str) -> Iterator[Path]:
    """The plan's working directory, created if needed; raises UsageFailure if another process is working on it.

    The block publishes it; then those of earlier plans are removed.
    """
    directory = path_of(output, key)
    with _locked(directory, output, key):
        if not (directory / PLAN).is_file():
            write_text(directory / PLAN, json.dumps({"plan": key}))
        yield directory
    remove_stale(output, key)


def remove_stale(output: Path, key: str) -> None:
    """Remove the working directories that interrupted predictions left for `output`, if no process works on them.

    `key` is the plan of the published output: under the name of its working directory, a killed process may have left
    the previous output.
    """
    for directory in output.parent.glob(f".{glob.escape(output.name)}.*"):
        digits = directory.name[-KEY_DIGITS:]
        if directory.is_symlink() or directory.name != f".{output.name}.{digits}":
            continue
        if re.fullmatch("[0-9a-f]{64}", plan := plan_of(directory)) and digits in (plan[:KEY_DIGITS], key[:KEY_DIGITS]):
            _remove_unless_locked(directory)


def plan_of(directory: Path) -> str:
    """The key of the plan in a working or output directory; empty if it holds none."""
    try:
        return str(json.loads((directory / PLAN).read_text(encoding="utf-8"))["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def _locked(directory: Path, output: Path, key: str) -> Iterator[None]:
    """Create and lock the directory; what it holds of another plan is removed."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = (directory / LOCK).open("w", encoding="utf-8")
        except FileNotFoundError:  # the directory was removed or published in the meantime
            continue
        with lock:
            try:
                _acquire(lock)
            except BlockingIOError:
                raise UsageFailure(
                    f"another predict is writing the same answers to {output}; wait for it, or name another --output"
                ) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                log.warning("the file system of %s has no locks; start no other predict to it", directory)
            if not _is_at(lock, directory / LOCK):
                continue
            if plan_of(directory) not in ("", key):  # a previous output, left when it was replaced
                shutil.rmtree(directory)
                continue
            yield
            return


def _remove_unless_locked(directory: Path) -> None:
    try:
        with (directory / LOCK).open("w", encoding="utf-8") as lock:
            _acquire(lock)
            if _is_at(lock, directory / LOCK):
                shutil.rmtree(directory)
    except BlockingIOError:
        log.info("leaving %s, on which another predict works", directory)
    except OSError as error:  # the answers are already published
        log.warning("could not delete %s, left by an interrupted predict: %s", directory, error)


def _acquire(lock: TextIO) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(lock: TextIO, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
