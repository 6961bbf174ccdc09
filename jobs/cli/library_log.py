"""The log of Ray and other libraries: a file of the store takes what they write to stdout and stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

MAX_LOGS = 20
"""Logs that a store keeps; older ones are deleted."""
MARK = "[shopkeeper] "
"""Begins each line that a worker logs, in the form `[shopkeeper] INFO message`: such lines are shown."""
_MARKED = re.compile(rf"{re.escape(MARK)}(?P<level>[A-Z]+) (?P<message>.*?)(\x1b\[0m)?$")

log = logging.getLogger("shopkeeper")


class MarkedFormatter(logging.Formatter):
    """Formats the messages of a worker such that the driver finds them among the output of the worker's libraries."""

    def format(self, record: logging.LogRecord) -> str:
        """The message with the mark and its level on every line."""
        return "\n".join(f"{MARK}{record.levelname} {line}" for line in super().format(record).splitlines())


@contextlib.contextmanager
def libraries_logged(directory: Path, name: str) -> Iterator[Path | None]:
    """Sends what libraries and child processes write to stdout and stderr to a new file; our log stays on stderr.

    Yields the file, which only its owner can read, as it may quote data and credentials; it is deleted at the end if it
    is empty. If the directory cannot be written, yields None, and the output goes to stderr as before.
    """
    path = directory / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        file = path.open("ab", buffering=0)  # a full disk costs lines of the log, not the verb
    except OSError:
        yield None
        return
    _delete_old(directory, keep=path)
    try:
        with file, _log_stays_visible(), _descriptors_redirected(file):
            lines = _Lines(file)
            with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
                yield path
    finally:
        with contextlib.suppress(OSError):
            if not path.stat().st_size:
                path.unlink()
                directory.rmdir()  # if it is empty


class _Lines(io.TextIOBase):
    """Writes lines to a file, except those that a worker has marked, which it logs.

    Each thread has its own unfinished line.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._unfinished = threading.local()

    def write(self, text: str) -> int:
        """Write text; a line is passed on when it is complete."""
        *complete, rest = (getattr(self._unfinished, "text", "") + text).split("\n")
        self._unfinished.text = rest
        for line in complete:
            marked = _MARKED.search(line)
            if marked:
                log.log(logging.getLevelNamesMapping().get(marked["level"], logging.INFO), "%s", marked["message"])
            else:
                # Closed, as a thread of a library outlives the verb; or the disk is full.
                with self._lock, contextlib.suppress(ValueError, OSError):
                    self._file.write(f"{line}\n".encode(errors="backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        """The file's descriptor, for child processes."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """No: libraries should write neither colours nor progress bars."""
        return False

    def flush(self) -> None:
        """Does nothing: complete lines are written at once."""


@contextlib.contextmanager
def _log_stays_visible() -> Iterator[None]:
    """Points the handlers of our log to a copy of stderr while descriptor 2 is redirected."""
    if not _is_descriptor_2(sys.stderr):
        yield
        return
    handlers = [each for each in log.handlers if isinstance(each, logging.StreamHandler) and each.stream is sys.stderr]
    with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1) as visible:
        for handler in handlers:
            handler.setStream(visible)
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(sys.__stderr__ or sys.stderr)


@contextlib.contextmanager
def _descriptors_redirected(file: io.RawIOBase) -> Iterator[None]:
    """Redirects descriptors 1 and 2, to which C++ code and child processes write, unless stderr is not descriptor 2."""
    if not _is_descriptor_2(sys.stderr):
        yield
        return
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in kept:
            os.dup2(file.fileno(), descriptor)
        yield
    finally:
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):  # none, or without a descriptor, as in tests
        return False


def _delete_old(directory: Path, *, keep: Path) -> None:
    with contextlib.suppress(OSError):
        logs = sorted((each for each in directory.glob("*.log") if each != keep), key=lambda each: each.stat().st_mtime)
        for old in logs[: -(MAX_LOGS - 1)]:
            old.unlink()
