"""Disk spool of tracking calls that could not be delivered, in order."""

from __future__ import annotations

import fcntl
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.cli.context import DependencyDown, Failure, log
from models.files import write_text

Call = dict[str, Any]


class CallRejected(Failure):
    """The server rejected a tracking call; retrying would not help."""


class Spool:
    """One JSON Lines file per run; safe for concurrent processes on one machine or shared disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def append(self, run_id: str, call: Call) -> None:
        """Append a call; the directory of an `artifacts` call is copied, as it may be deleted before delivery."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if call["call"] == "artifacts":
            copied = self.directory / f"{run_id}.files" / uuid.uuid4().hex[:8]
            shutil.copytree(call["directory"], copied)
            call = {**call, "directory": copied.name}
        with self._lock(run_id), self._file(run_id).open("a", encoding="utf-8") as file:
            file.write(json.dumps(call, ensure_ascii=False) + "\n")

    def pending(self, run_id: str) -> bool:
        """Whether a run has spooled calls."""
        return self._file(run_id).is_file()

    def run_ids(self) -> list[str]:
        """Ids of the runs with spooled calls."""
        return sorted(path.stem for path in self.directory.glob("*.jsonl") if not path.stem.endswith(".refused"))

    def deliver(self, run_id: str, send: Callable[[Call], None]) -> int:
        """Send the spooled calls of a run in order until the server is down; returns the number of sent calls.

        A rejected call is moved to `<run_id>.refused.jsonl` so that it does not block later ones.
        """
        if not self.pending(run_id):
            return 0
        with self._lock(run_id):
            if not self.pending(run_id):
                return 0
            lines = self._file(run_id).read_text(encoding="utf-8").splitlines()
            num_sent = 0
            try:
                for line in lines:
                    self._send(run_id, line, send)
                    num_sent += 1
            except DependencyDown:
                log.debug("tracking is still down; %d calls of run %s stay spooled", len(lines) - num_sent, run_id)
            self._keep(run_id, lines[num_sent:])
        return num_sent

    def _send(self, run_id: str, line: str, send: Callable[[Call], None]) -> None:
        try:
            call = json.loads(line)
            if call["call"] == "artifacts":
                # The last part only: earlier releases wrote absolute paths, and the store may have been moved.
                copied = self.directory / f"{run_id}.files" / Path(call["directory"]).name
                call = {**call, "directory": str(copied)}
            send(call)
        except (CallRejected, ValueError, OSError) as error:
            log.warning("a spooled tracking call of run %s was rejected and set apart: %s", run_id, error)
            with (self.directory / f"{run_id}.refused.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            return
        if call["call"] == "artifacts":
            shutil.rmtree(call["directory"], ignore_errors=True)

    def _keep(self, run_id: str, lines: list[str]) -> None:
        if not lines:
            self._file(run_id).unlink()
            return
        write_text(self._file(run_id), "".join(line + "\n" for line in lines))

    def _file(self, run_id: str) -> Path:
        return self.directory / f"{run_id}.jsonl"

    @contextmanager
    def _lock(self, run_id: str) -> Iterator[None]:
        with (self.directory / f"{run_id}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
