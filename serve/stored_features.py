"""The features of a family as a replica sees them: those that `deploy` fills, and those that endpoints write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.family import Family, Features
from models.features import Change, FeatureStore, Found, filled, live


class StoredFeatures:
    """Reads both SQLite files of a family, notices when the filled one is replaced, and writes the live one."""

    def __init__(self, family: Family, *, filled_store: Path | None, live_store: Path | None) -> None:
        """Raises FileNotFoundError for a file that is not there, ValueError for a live store that is not named."""
        self._filled, self._live = filled(family.features), live(family.features)
        if self._live and live_store is None:
            raise ValueError(f"{family.name} writes features and is told no live_feature_store; deploy it again")
        self._filled_store = _ReplacedStore(filled_store) if filled_store else None
        # One to read and one to write: a connection sees what it has not committed yet.
        self._live_store = FeatureStore(live_store, read_only=True) if live_store else None
        self._live_writer = FeatureStore(live_store) if live_store else None

    def read(self, request: Any) -> Found:
        """The values that a request asks for, and the versions of those that may be written."""
        values: Features = {}
        if self._filled_store is not None:
            values = self._filled_store.lookup(self._filled, request)
        if self._live_store is None:
            return Found(values, {})
        found = self._live_store.read(self._live, request)
        return Found({**values, **found.values}, found.versions)

    def write(self, changes: Sequence[Change]) -> bool:
        """Write what is still as it was read, or nothing; may wait for other writers. For one thread."""
        assert self._live_writer is not None, "only a family with live features writes"
        return self._live_writer.compare_and_set_all(changes)


class _ReplacedStore:
    """A store that is replaced as a whole now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def lookup(self, features: Sequence[Any], request: Any) -> Features:
        try:
            is_replaced = _identity(self._path) != self._identity
        except FileNotFoundError:  # between two files, or gone: the open one still answers
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
