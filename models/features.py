"""The feature store: what requests need before `encode`, in one SQLite file; filled by jobs, read by serve."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from models.family import Feature, Features
from models.files import replace_file
from models.prepared import Prepared

WRITE_CHUNK = 10_000


class FeatureStore:
    """Reads and writes JSON values by (feature name, key); one instance per thread or replica."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        if read_only:
            if not path.is_file():
                raise FileNotFoundError(f"no feature store at {path}; `shopkeeper deploy` writes it")
            self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS feature "
                "(name TEXT, key TEXT, value TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID"
            )

    def replace(self, name: str, rows: Iterable[tuple[str, Any]]) -> int:
        """Replace all values of one feature in one transaction (readers see the old or the new); returns how many."""
        written = 0
        chunk: list[tuple[str, str, str]] = []
        with self._connection:
            self._connection.execute("DELETE FROM feature WHERE name = ?", (name,))
            for key, value in rows:
                chunk.append((name, key, json.dumps(value, ensure_ascii=False)))
                if len(chunk) == WRITE_CHUNK:
                    written += self._insert(chunk)
            written += self._insert(chunk)
        return written

    def lookup(self, features: Sequence[Feature], request: Any) -> Features:
        """The values that a request asks for; unknown keys are absent."""
        found: dict[str, dict[str, Any]] = {}
        for feature in features:
            values: dict[str, Any] = {}
            for key in feature.keys(request):
                row = self._connection.execute(
                    "SELECT value FROM feature WHERE name = ? AND key = ?", (feature.name, key)
                ).fetchone()
                if row is not None:
                    values[key] = json.loads(row[0])
            found[feature.name] = values
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _insert(self, chunk: list[tuple[str, str, str]]) -> int:
        self._connection.executemany("INSERT OR REPLACE INTO feature VALUES (?, ?, ?)", chunk)
        written = len(chunk)
        chunk.clear()
        return written


def write_store(path: Path, features: Sequence[Feature], data: Prepared) -> dict[str, int]:
    """Write a store with every feature of a family, or replace the one there is; returns rows per feature."""
    # The last to close a store leaves one file, without a write-ahead log.
    with replace_file(path) as aside, closing(FeatureStore(aside)) as store:
        return fill(store, features, data)


def fill(store: FeatureStore, features: Sequence[Feature], data: Prepared) -> dict[str, int]:
    """Fill a store with every feature that comes from prepared data; returns rows per feature."""
    return {each.name: store.replace(each.name, each.rows(data)) for each in features if each.rows is not None}
