"""SIGTERM as an interruption like Ctrl-C, and our handlers of both kept while Ray is in the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_interrupts() -> Iterator[threading.Event]:
    """Makes SIGTERM a KeyboardInterrupt, so that it is cleaned up after like Ctrl-C; the event tells them apart.

    An exception of our own would not do: Ray turns whatever interrupts a wait into a plain KeyboardInterrupt.
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
def sigint_kept() -> Iterator[Callable[[], bool]]:
    """Puts the handler of Ctrl-C back at the end that Ray replaces; what it yields says whether it is in place now."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keeps the handler of SIGTERM while Ray starts, which would put one in its place that ends the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
