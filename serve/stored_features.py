"""A replica's access to the feature stores: the one that `deploy` fills, and the one that endpoints write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.family import Family, Features
from models.features import Change, FeatureStore, Found, filled, live


class StoredFeatures:
    """Reads both feature stores of a family, reopens the filled one when it is replaced, and writes the live one."""

    def __init__(self, family: Family, *, filled_store: Path | None, live_store: Path | None) -> None:
        """Raises FileNotFoundError for a missing file, ValueError if a required live store is not given."""
        self._filled, self._live = filled(family.features), live(family.features)
        if self._live and live_store is None:
            raise ValueError(f"{family.name} writes features but has no live_feature_store; deploy it again")
        self._filled_store = _ReloadingStore(filled_store) if filled_store else None
        # Separate connections, as a connection would read its own uncommitted writes.
        self._live_store = FeatureStore(live_store, read_only=True) if live_store else None
        self._live_writer = FeatureStore(live_store) if live_store else None

    def read(self, request: Any) -> Found:
        """The feature values of a request, and the versions of the live ones."""
        values: Features = {}
        if self._filled_store is not None:
            values = self._filled_store.lookup(self._filled, request)
        if self._live_store is None:
            return Found(values, {})
        found = self._live_store.read(self._live, request)
        return Found({**values, **found.values}, found.versions)

    def write(self, changes: Sequence[Change]) -> bool:
        """Write all changes if none of their features changed since read, else nothing; from one thread only."""
        assert self._live_writer is not None, "only a family with live features writes"
        return self._live_writer.compare_and_set_all(changes)


class _ReloadingStore:
    """A read-only store that is reopened when its file is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def lookup(self, features: Sequence[Any], request: Any) -> Features:
        try:
            is_replaced = _identity(self._path) != self._identity
        except FileNotFoundError:  # being replaced, or deleted: the open one still works
            is_replaced = False
        if is_replaced:
            before = self._store
            self._open()
            before.close()
        return self._store.lookup(features, request)

    def _open(self) -> None:
        self._store = FeatureStore(self._path, read_only=True)
        self._identity = _identity(self._path)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
