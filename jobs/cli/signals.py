"""Signal handling: SIGTERM interrupts like Ctrl-C, and Ray's replacements of our handlers are undone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_interrupts() -> Iterator[threading.Event]:
    """Turns SIGTERM into a KeyboardInterrupt, for the same cleanup as after Ctrl-C; the event is set for SIGTERM only.

    A custom exception would not work: Ray turns whatever interrupts a wait into a plain KeyboardInterrupt.
    """
    terminated = threading.Event()

    def terminate(number: int, frame: FrameType | None) -> None:
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigint_restored() -> Iterator[Callable[[], bool]]:
    """Restores the SIGINT handler at the end; yields a function that tells whether it is still installed."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def sigterm_restored() -> Iterator[None]:
    """Restores the SIGTERM handler, which Ray replaces on start with one that exits the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
