"""The counts of all replicas of a store, in a directory: each writes its own file, and any of them adds them up."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from serve.exposition import Snapshot, page
from serve.metrics import REPLICAS, Metrics
from serve.problems import log

WRITE_EVERY_S = 2.0
ALIVE_S = 30.0
"""A replica is alive while its file was written or touched within this time."""
KEEP_ENDED_S = 24 * 3600.0
"""How long the counters of a replica that has ended are added; that they then go down is a reset to Prometheus."""


class SharedMetrics:
    """One replica's part in the directory."""

    def __init__(self, metrics: Metrics, directory: Path) -> None:
        self._metrics = metrics
        self.directory = directory
        self._path = directory / f"{metrics.family_name}-{uuid4().hex[:12]}.json"
        self._written = b""
        self._has_failed = False
        self.num_replicas = 1
        """Replicas of this family that are alive, this one included; as of the last write."""
        metrics.set(REPLICAS, value=1)

    async def keep_writing(self) -> None:
        """Write the counts every few seconds, for ever."""
        while True:
            snapshot = self._metrics.snapshot()  # on the event loop, where most of it is counted
            await asyncio.to_thread(self.write, snapshot)
            await asyncio.sleep(WRITE_EVERY_S)

    def write(self, snapshot: Snapshot) -> None:
        """Write or touch the file of this replica, and remove those of replicas that ended long ago."""
        content = json.dumps(snapshot).encode()
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if content == self._written and self._path.exists():
                os.utime(self._path)
            else:
                self._replace(content)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                log.error("the metrics of this replica are missing from /metrics of the others: %s", error)
            self._has_failed = True
        self._count_replicas()

    def page(self) -> str:
        """The page of all replicas; this one's counts are those of this moment."""
        alive: list[Snapshot] = [self._metrics.snapshot()]
        ended: list[Snapshot] = []
        for path, age_s in self._others():
            snapshot = _read(path)
            if snapshot is not None:
                (alive if age_s < ALIVE_S else ended).append(snapshot)
        return page(alive, ended)

    def _replace(self, content: bytes) -> None:
        # Not synced to disk, unlike other files of the store: after a power loss counters start from 0 anyway.
        temporary = self._path.with_suffix(".part")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(self._path)
        self._written = content

    def _count_replicas(self) -> None:
        own = f"{self._metrics.family_name}-"
        found = 1
        for path, age_s in self._others():
            if age_s >= KEEP_ENDED_S:
                with suppress(OSError):
                    path.unlink()
            elif age_s < ALIVE_S and path.name.startswith(own) and "-" not in path.stem.removeprefix(own):
                found += 1
        self.num_replicas = found

    def _others(self) -> Iterator[tuple[Path, float]]:
        """The files of other replicas with their age in seconds."""
        with suppress(OSError):
            for path in self.directory.glob("*.json"):
                if path != self._path:
                    with suppress(OSError):
                        yield path, time.time() - path.stat().st_mtime


def _read(path: Path) -> dict[str, Any] | None:
    try:
        snapshot = json.loads(path.read_bytes())
        return snapshot if {"family", "numbers", "buckets"} <= set(snapshot) else None
    except (OSError, ValueError, TypeError):
        return None
