"""What a system under measurement says to the benchmark that started it; standard library only, for every peer."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MARK = "RESULT "
"""Begins a line of ours among whatever else a peer prints."""


@dataclass(frozen=True)
class Started:
    """A moment, on both clocks."""

    cpu_s: float
    wall_s: float

    def so_far(self) -> dict[str, float]:
        """Processor and wall seconds of this process since then."""
        return {"cpu_s": time.process_time() - self.cpu_s, "wall_s": time.monotonic() - self.wall_s}


def start() -> Started:
    """This moment."""
    return Started(time.process_time(), time.monotonic())


def say(values: dict[str, Any]) -> None:
    """Answer with one line, with the memory this process has needed at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(MARK + json.dumps({**values, "peak_rss_mb": peak}), flush=True)


def asked() -> Iterator[dict[str, Any]]:
    """One request after the other, until the benchmark has had enough."""
    for line in sys.stdin:
        yield json.loads(line)


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of what is measured."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
