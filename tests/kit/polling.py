"""Waits for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE_S = 0.05


def until(found: Callable[[], T | None], *, within_s: float = 120.0) -> T:
    """What `found` returns once that is true; AssertionError if it is not in time, which is far more than it takes."""
    deadline = time.monotonic() + within_s
    while True:
        if result := found():
            return result
        assert time.monotonic() < deadline, f"it did not happen within {within_s:g} s"
        time.sleep(PAUSE_S)
