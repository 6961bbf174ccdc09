"""Standard output: reserved for the result of a command; a failed write is an error of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


class OutputFailed(Exception):
    """Stdout is closed, full or a broken pipe; the message names the reason and the remedy."""


@contextlib.contextmanager
def stdout_for_results() -> Iterator[TextIO]:
    """Reserves stdout for the result; output of libraries and child processes goes to stderr.

    Raises OutputFailed if stdout is closed: no file opened later may take its place and get the result.
    """
    results = sys.stdout
    if results is None:
        raise OutputFailed("stdout is closed, so the result has nowhere to go; redirect it to a file or /dev/null")
    with contextlib.ExitStack() as undo:
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError, ValueError):  # a stdout without a file descriptor, as in tests
            if results.fileno() == 1:
                results.flush()
                results = os.fdopen(os.dup(1), "w", encoding=results.encoding, errors="backslashreplace")
                undo.callback(_close, results)
                os.dup2(2, 1)
                undo.callback(os.dup2, results.fileno(), 1)
        yield results


def write(stdout: TextIO, text: str) -> None:
    """Write text and flush it; raises OutputFailed."""
    try:
        stdout.write(text)
        stdout.flush()
    except OSError as error:
        raise OutputFailed(f"the result cannot be written to stdout: {error.strerror or error}") from error


def _close(results: TextIO) -> None:
    with contextlib.suppress(OSError):  # closing writes again what `write` has reported
        results.close()
