"""The request log, off by default: a sample of the requests as JSON lines, without bodies, ids as salted hashes."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from models.files import create_text
from models.keys import Key
from serve.problems import log

MAX_FILE_BYTES = 64 * 1024 * 1024
NUM_OLD_FILES = 4
"""Full files that a replica keeps, besides the one that it writes."""
KEEP_S = 30 * 24 * 3600.0
"""Files of replicas that ended are removed after this time, when another one opens its own."""
MAX_WAITING = 10_000
"""Lines that wait for a slow disk; further ones are dropped and counted."""
HASH_DIGITS = 16
FILE_MODE = 0o600

_record: ContextVar[Record | None] = ContextVar("record", default=None)


@dataclass
class Record:
    """What is noted of one request while it is answered."""

    ids: dict[str, list[str]] = field(default_factory=dict)
    """Feature name -> the hashed ids of which the request needs that feature, such as the user's."""
    model_version: str | None = None
    before: Token[Record | None] | None = None


@dataclass(frozen=True)
class LogSettings:
    """Where to log, and how much of the requests."""

    path: Path
    """A directory, or a file's name with a suffix, to which each replica adds its own."""
    sample: float
    """Share of the requests, 0 to 1."""
    salt: Path
    """A secret of the store, without which ids cannot be found out by hashing all known ones; created if missing."""


def current() -> Record | None:
    """The record of the request that is being answered; None if it is not in the sample."""
    return _record.get()


class RequestLog:
    """The log of one replica."""

    def __init__(self, family_name: str, *, on_drop: Callable[[], object] = lambda: None) -> None:
        self._family_name = family_name
        self._on_drop = on_drop
        self._settings: LogSettings | None = None
        self._writer: _Writer | None = None
        self._salt = b""
        self._sample = 0.0

    def configure(self, settings: LogSettings | None) -> None:
        """Log as these settings say from now on, or no longer. Raises OSError if the log cannot be written there."""
        if settings == self._settings:
            return
        self.close()
        if settings is not None:
            create_text(settings.salt, secrets.token_hex(32), mode=FILE_MODE)
            self._salt = settings.salt.read_bytes()
            self._writer = _Writer(_own_path(settings.path, self._family_name))
            self._sample = settings.sample
        self._settings = settings

    def begin(self) -> Record | None:
        """A record if the request is in the sample."""
        if self._writer is None or random.random() >= self._sample:
            return None
        record = Record()
        record.before = _record.set(record)
        return record

    def note_ids(self, record: Record, ids: Mapping[str, Sequence[str]]) -> None:
        """Add the hashes of ids."""
        record.ids = {name: [self._hashed(each) for each in found] for name, found in ids.items() if found}

    def end(self, record: Record, *, method: str, route: str, code: int, seconds: float, key: Key | None) -> None:
        """Write the line of a request."""
        if record.before is not None:
            _record.reset(record.before)
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "family": self._family_name,
            "method": method,
            "route": route,
            "code": code,
            "ms": round(seconds * 1000, 2),
            "key": key.id if key is not None else None,
            "model_version": record.model_version,
            "ids": record.ids,
        }
        if self._writer is None or not self._writer.put(json.dumps(line) + "\n"):
            self._on_drop()

    def close(self) -> None:
        """Write what waits, and stop logging."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._settings = None, None

    def _hashed(self, identifier: str) -> str:
        content = identifier.encode(errors="surrogatepass")
        return hmac.new(self._salt, content, hashlib.sha256).hexdigest()[:HASH_DIGITS]


class _Writer:
    """Writes lines in a thread of its own, as a disk may be slow, to a file that is replaced when it is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_old(path.parent)
        self._file = self._opened()
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Write a line soon; False if too many wait already."""
        if self._waiting.qsize() >= MAX_WAITING:
            return False
        self._waiting.put(line)
        return True

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        with self._file:
            while (line := self._waiting.get()) is not None:
                try:
                    self._write(line)
                    self._has_failed = False
                except OSError as error:
                    if not self._has_failed:
                        log.error("lines of the request log are lost: %s", error)
                    self._has_failed = True

    def _write(self, line: str) -> None:
        if self._file.tell() + len(line) > MAX_FILE_BYTES:
            self._rotate()
        self._file.write(line)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(NUM_OLD_FILES, 0, -1):
            newer = self._path if number == 1 else self._numbered(number - 1)
            with suppress(FileNotFoundError):
                newer.replace(self._numbered(number))
        self._file = self._opened()

    def _numbered(self, number: int) -> Path:
        return self._path.with_suffix(f".{number}{self._path.suffix}")

    def _opened(self) -> Any:
        # Line by line: what was written before the process is killed is in the file.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        return os.fdopen(descriptor, "a", buffering=1, encoding="utf-8")


def _own_path(path: Path, family_name: str) -> Path:
    """The file of this replica, of which several may write at a time."""
    directory, stem, suffix = (path.parent, path.stem, path.suffix) if path.suffix else (path, "requests", ".jsonl")
    return directory / f"{stem}-{family_name}-{uuid4().hex[:12]}{suffix}"


def _remove_old(directory: Path) -> None:
    """Remove the files of former replicas, which have names of the same form."""
    for path in directory.glob(f"*-*-{'[0-9a-f]' * 12}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > KEEP_S:
                path.unlink()
