"""A replica's access to the feature stores: the one that `deploy` fills, and the one that endpoints write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from models.erasure.features import silenced
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.family import Family, Features
from models.features import Change, FeatureStore, Found, filled, live, read_stores
from serve.problems import log

RETRY_S = 10.0
"""Pause before a replacement that cannot be opened is tried again."""


class StoredFeatures:
    """Reads both feature stores of a family, reopens the filled one when it is replaced, and writes the live one."""

    def __init__(
        self,
        family: Family,
        *,
        filled_store: Path | None,
        live_store: Path | None,
        tombstones: Tombstones | None = None,
    ) -> None:
        """Raises FileNotFoundError for a missing file, ValueError if a required live store is not given."""
        self._features = silenced(
            family.features, tombstones, on_unreadable=partial(log.error, "users are answered as unknown: %s")
        )
        if live(self._features) and live_store is None:
            raise ValueError(f"{family.name} writes features but has no live_feature_store; deploy it again")
        self._tombstones = tombstones
        self._filled_store = _ReloadingStore(filled_store) if filled_store else None
        # Separate connections, as a connection would read its own uncommitted writes.
        self._live_store = FeatureStore(live_store, read_only=True) if live_store else None
        self._live_writer = FeatureStore(live_store) if live_store else None
        self._num_requests = 0
        self._on_unused: Callable[[], object] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a request uses the stores; on the event loop."""
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1
            self._report_if_unused()

    def when_unused(self, do: Callable[[], object]) -> None:
        """Call `do` once when no request uses the stores, now or later; on the event loop."""
        self._on_unused = do
        self._report_if_unused()

    def close(self) -> None:
        """Close all connections; in the thread that writes, after its last write."""
        for store in (self._filled_store, self._live_store, self._live_writer):
            if store is not None:
                store.close()

    def _report_if_unused(self) -> None:
        if self._num_requests == 0 and self._on_unused is not None:
            do, self._on_unused = self._on_unused, None
            do()

    def read(self, request: Any) -> Found:
        """The feature values of a request, and the versions of the live ones."""
        newest = self._filled_store.newest() if self._filled_store else None
        return read_stores(self._features, request, filled_store=newest, live_store=self._live_store)

    def read_more(self, keys: Mapping[str, Sequence[str]]) -> Features:
        """The values of filled features (name -> keys) that a request needs beyond those that `read` gives."""
        if self._filled_store is None:
            return {}
        named = [replace(each, keys=lambda name: keys[name]) for each in filled(self._features) if keys.get(each.name)]
        return {each.name: self._filled_store.newest().read([each], each.name).values[each.name] for each in named}

    def is_silent(self, name: str, key: str) -> bool:
        """Whether a key of a feature is that of an erased user, or may be."""
        if self._tombstones is None or not any(each.name == name and each.is_personal for each in self._features):
            return False
        try:
            return self._tombstones.has(key)
        except TombstonesUnreadable:
            return True

    def live_keys(self, request: Any) -> set[tuple[str, str]]:
        """The (feature name, key) pairs that a request may write."""
        return {(feature.name, key) for feature in live(self._features) for key in feature.keys(request)}

    def write(self, changes: Sequence[Change]) -> bool:
        """Write all changes if none of their features changed since read, else nothing; from one thread only."""
        assert self._live_writer is not None, "only a family with live features writes"
        return self._live_writer.compare_and_set(changes)


class _ReloadingStore:
    """A read-only store that is reopened when its file is replaced."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError or FeatureStoreUnreadable."""
        self._path = path
        # Before it is opened, so that a replacement in between is noticed.
        self._identity = _identity(path)
        self._store = FeatureStore(path, read_only=True)
        self._unreadable: tuple[int, int] | None = None
        """Identity of the last replacement that could not be opened."""
        self._retry_at_s = 0.0

    def newest(self) -> FeatureStore:
        """The store in the file as it is now, or the previous one if it cannot be opened."""
        self._reopen_if_replaced()
        return self._store

    def close(self) -> None:
        self._store.close()

    def _reopen_if_replaced(self) -> None:
        identity = _identity(self._path)
        is_tried = identity == self._unreadable and time.monotonic() < self._retry_at_s
        if identity in (None, self._identity) or is_tried:
            return
        try:
            replacement = FeatureStore(self._path, read_only=True)
        except OSError as error:
            log.error("the replaced feature store stays in use: %s", error)
            self._unreadable, self._retry_at_s = identity, time.monotonic() + RETRY_S
            return
        before, self._store, self._identity = self._store, replacement, identity
        before.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """What distinguishes a file from its replacement; None if it is being replaced or was deleted."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
