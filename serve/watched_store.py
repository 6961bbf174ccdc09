"""A connection to a feature store whose file is watched: reopened when it changes, and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from models.errors import FeatureStoreLocked, FeatureStoreUnreadable
from models.features import FeatureStore, Keys, Row
from serve.problems import log

RETRY_S = 1.0
"""Pause before a file that could not be opened, or that was locked, is tried again."""
REMEMBERED_S = 60.0
"""How long a value that could not be read counts as a fault of the store, unless its file changes before."""

Identity = tuple[int, ...]
"""What distinguishes a file from its replacement, and for a filled store from itself after it was overwritten."""


class WatchedStore:
    """A store as one thread uses it, which is reopened when its file is replaced or, if it is filled, overwritten.

    A filled store that is open stays in use where its file is deleted or replaced by one that cannot be read. A live
    one does not, as what is written to a deleted file is lost.
    """

    def __init__(self, path: Path, *, is_live: bool, read_only: bool = True, busy_timeout_s: float) -> None:
        self.path = path
        self._is_live = is_live
        self._read_only = read_only
        self._busy_timeout_s = busy_timeout_s
        self._store: FeatureStore | None = None
        self._identity: Identity | None = None
        """Of the file that is open."""
        self._tried: Identity | None = None
        """Of a file that could not be opened."""
        self._retry_at_s = 0.0
        self._file_fault: FeatureStoreUnreadable | None = None
        """Why the file as it is now cannot be opened."""
        self._read_fault: FeatureStoreUnreadable | None = None
        """Why reading failed."""
        self._read_fault_ends_s = 0.0

    @property
    def fault(self) -> str | None:
        """What is wrong with the store, though it may still answer; thread-safe."""
        if self._file_fault is not None:
            return str(self._file_fault)
        if self._read_fault is not None and time.monotonic() < self._read_fault_ends_s:
            return str(self._read_fault)
        return None

    @property
    def is_locked(self) -> bool:
        """Whether another process had locked the store when it was last used."""
        return isinstance(self._read_fault or self._file_fault, FeatureStoreLocked)

    def open(self) -> FeatureStore:
        """The store in the file as it is now, or else the one that is open; raises FeatureStoreUnreadable."""
        identity = _identity(self.path, is_live=self._is_live)
        if identity is None or identity != self._identity:
            self._reopen(identity)
        elif self._file_fault is not None:  # it is back
            self._file_fault = None
        if self._file_fault is not None and (self._is_live or self._store is None):
            raise self._file_fault
        assert self._store is not None, "a store is open, or there is a fault"
        return self._store

    def fetch(self, keys: Keys) -> Sequence[Row]:
        """The rows with these keys; raises FeatureStoreUnreadable, FeatureStoreLocked if it was locked just before."""
        store = self.open()
        if isinstance(self._read_fault, FeatureStoreLocked) and time.monotonic() < self._retry_at_s:
            raise self._read_fault  # not each request waits
        try:
            rows = store.fetch(keys)
        except FeatureStoreUnreadable as fault:
            self.failed(fault)
            raise
        self.succeeded()
        return rows

    def probe(self) -> None:
        """Find out whether the store can be read; `fault` says what is wrong."""
        try:
            self.open().probe()
        except FeatureStoreUnreadable as fault:
            self.failed(fault)
        else:
            self.succeeded()

    def failed(self, fault: FeatureStoreUnreadable) -> None:
        """Note that the store could not be read or written, and try to open it again."""
        if fault is self._file_fault:
            return
        if self.fault is None:
            log.error("%s", fault)
        now = time.monotonic()
        self._read_fault, self._read_fault_ends_s = fault, now + REMEMBERED_S
        self._retry_at_s = now + RETRY_S
        if not isinstance(fault, FeatureStoreLocked):
            self._tried, self._identity = self._identity, None

    def succeeded(self) -> None:
        """Note that the store could be read or written, and so is not locked any more."""
        if self.is_locked:
            self._read_fault = None

    def close(self) -> None:
        """Close the connection."""
        if self._store is not None:
            self._store.close()

    def _reopen(self, identity: Identity | None) -> None:
        """Open the file with this identity, unless it is missing or was tried just before."""
        if identity is not None and identity == self._tried and time.monotonic() < self._retry_at_s:
            return
        try:
            opened = self._open()
        except FeatureStoreUnreadable as fault:
            self._tried, self._retry_at_s = identity, time.monotonic() + RETRY_S
            if str(fault) != self.fault:
                log.error("%s%s", fault, "; the store that was open stays in use" if self._store else "")
            self._file_fault = fault
            return
        if identity != self._tried:  # otherwise it is the file that could not be read
            self._read_fault = None
        before, self._store, self._identity = self._store, opened, identity
        self._file_fault = self._tried = None
        if before is not None:
            before.close()

    def _open(self) -> FeatureStore:
        if not self.path.is_file():  # a writer would create it
            raise FeatureStoreUnreadable(f"no feature store at {self.path}; deploy again")
        return FeatureStore(self.path, read_only=self._read_only, busy_timeout_s=self._busy_timeout_s)


def _identity(path: Path, *, is_live: bool) -> Identity | None:
    """What changes when a file is replaced and, unless endpoints write to it, when it is overwritten; None without."""
    try:
        status = path.stat()
    except OSError:
        return None
    if is_live:
        return status.st_dev, status.st_ino
    # The time of change also tells a change of permissions.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
