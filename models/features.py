"""The feature store: values that requests need before `encode`, in SQLite files that jobs or endpoints write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import FeatureStoreUnreadable
from models.family import Feature, Features
from models.files import replace_file
from models.prepared import Prepared

WRITE_CHUNK = 10_000
BUSY_TIMEOUT_S = 5.0
"""How long a writer waits for a lock."""
ABSENT = 0
"""Version of a missing key."""


class NotUnicode(ValueError):
    """A key or value of a request that no store can contain; the message is for the client."""


@dataclass(frozen=True)
class Found:
    """The values that a request has read, a consistent snapshot of each store."""

    values: Features
    versions: Mapping[tuple[str, str], int]
    """Version of each (feature name, key) that the request asks for; ABSENT for a missing one."""


@dataclass(frozen=True)
class Change:
    """A value to write if its key still has this version."""

    name: str
    key: str
    value: Any
    version: int


class FeatureStore:
    """Reads and writes JSON values by (feature name, key); one instance per thread.

    Several processes may write to a file concurrently, on one host only: SQLite's write-ahead log needs shared memory.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises FileNotFoundError for a missing file, FeatureStoreUnreadable for one that is not a feature store."""
        self.path = path
        if read_only and not path.is_file():
            raise FileNotFoundError(f"no feature store at {path}; `shopkeeper deploy` writes it")
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _connect(f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}")
            columns = _open(self._connection, read_only=read_only)
        except sqlite3.DatabaseError as error:
            raise FeatureStoreUnreadable(f"{path} is not a readable feature store: {error}; deploy again") from error
        if not columns:
            raise FeatureStoreUnreadable(f"{path} is not a feature store: it lacks the table `feature`; deploy again")
        # Files written by release 0.1 have no versions.
        self._version = "version" if "version" in columns else "1"

    def replace(self, name: str, rows: Iterable[tuple[str, Any]]) -> int:
        """Replace all values of a feature in one transaction; returns how many there are."""
        written = 0
        chunk: list[tuple[str, str, str]] = []
        with self._transaction("IMMEDIATE"):
            self._connection.execute("DELETE FROM feature WHERE name = ?", (name,))
            for key, value in rows:
                chunk.append((name, key, _json(value)))
                if len(chunk) == WRITE_CHUNK:
                    written += self._insert(chunk)
            written += self._insert(chunk)
        return written

    def read(self, features: Sequence[Feature], request: Any) -> Found:
        """A consistent snapshot of the values that a request asks for, without missing keys, and all versions.

        Raises NotUnicode for a key with lone surrogates.
        """
        values: dict[str, dict[str, Any]] = {feature.name: {} for feature in features}
        versions: dict[tuple[str, str], int] = {}
        select = f"SELECT value, {self._version} FROM feature WHERE name = ? AND key = ?"
        with self._transaction("DEFERRED"):
            for feature in features:
                for key in feature.keys(request):
                    _check_unicode(key, f"the key {key!r} of {feature.name!r}")
                    row = self._connection.execute(select, (feature.name, key)).fetchone()
                    versions[feature.name, key] = ABSENT if row is None else row[1]
                    if row is not None:
                        values[feature.name][key] = json.loads(row[0])
        return Found(values, versions)

    def rows(self, name: str) -> list[tuple[str, Any]]:
        """All (key, value) pairs of a feature, unordered."""
        found = self._connection.execute("SELECT key, value FROM feature WHERE name = ?", (name,))
        return [(key, json.loads(value)) for key, value in found]

    def compare_and_set(self, changes: Sequence[Change]) -> bool:
        """Write all values, or none if any key no longer has the version of its change; returns whether they were.

        Raises NotUnicode for a value with lone surrogates.
        """
        rows = [(each.name, each.key, _json(each.value), each.version + 1) for each in changes]
        for name, key, value, _ in rows:
            _check_unicode(value, f"the new value of {name!r} for {key!r}")
        with self._transaction("IMMEDIATE"):
            for change in changes:
                row = self._connection.execute(
                    "SELECT version FROM feature WHERE name = ? AND key = ?", (change.name, change.key)
                ).fetchone()
                if change.version != (ABSENT if row is None else row[0]):
                    return False
            self._connection.executemany(
                "INSERT OR REPLACE INTO feature (name, key, value, version) VALUES (?, ?, ?, ?)", rows
            )
        return True

    def state(self) -> tuple[int, int]:
        """Number of values and sum of their versions: changes with each write by an endpoint."""
        row = self._connection.execute(f"SELECT COUNT(*), COALESCE(SUM({self._version}), 0) FROM feature").fetchone()
        return int(row[0]), int(row[1])

    def leave_one_file(self) -> None:
        """Merge the write-ahead log and give it up: even a reader would have to create its files next to the store."""
        self._connection.execute("PRAGMA journal_mode=DELETE")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _insert(self, chunk: list[tuple[str, str, str]]) -> int:
        self._connection.executemany("INSERT OR REPLACE INTO feature (name, key, value) VALUES (?, ?, ?)", chunk)
        written = len(chunk)
        chunk.clear()
        return written

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        with self._connection:  # commits, or rolls back unless SQLite has, as it does when the disk is full
            self._connection.execute(f"BEGIN {kind}")
            yield


def write_store(path: Path, features: Sequence[Feature], data: Prepared) -> dict[str, int]:
    """Write a store with the features of a family, atomically replacing an existing one; returns rows per feature.

    It is readable by its owner only, who needs no write permission to read it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as temporary:
        _create_private(temporary)
        with closing(FeatureStore(temporary)) as store:
            counts = fill(store, features, data)
            store.leave_one_file()
        return counts


def fill(store: FeatureStore, features: Sequence[Feature], data: Prepared) -> dict[str, int]:
    """Fill a store with every feature that comes from prepared data; returns rows per feature."""
    return {each.name: store.replace(each.name, each.rows(data)) for each in features if each.rows is not None}


def filled(features: Sequence[Feature]) -> list[Feature]:
    """The features that `deploy` fills a store with."""
    return [each for each in features if each.rows is not None]


def live(features: Sequence[Feature]) -> list[Feature]:
    """The features that endpoints write when they answer; they are kept in a separate store."""
    return [each for each in features if each.rows is None]


def read_stores(
    features: Sequence[Feature], request: Any, *, filled_store: FeatureStore | None, live_store: FeatureStore | None
) -> Found:
    """The values that a request asks for from both stores of a family, if it has them, and the versions of live ones.

    Raises NotUnicode for a key with lone surrogates.
    """
    values: Features = filled_store.read(filled(features), request).values if filled_store else {}
    found = live_store.read(live(features), request) if live_store else Found({}, {})
    return Found({**values, **found.values}, found.versions)


def create_live_store(path: Path) -> None:
    """Create an empty store for the features that endpoints write, readable by its owner only, unless it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _create_private(path)
    FeatureStore(path).close()


def _create_private(path: Path) -> None:
    # SQLite gives its auxiliary files the same permissions.
    path.touch(mode=0o600)


def _open(connection: sqlite3.Connection, *, read_only: bool) -> list[str]:
    """The columns of the table, which a writer creates; none if the file is not a feature store."""
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL")
        # A power loss may lose the last writes but does not corrupt the file; no write waits for the disk.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS feature (name TEXT, key TEXT, value TEXT, "
            "version INTEGER NOT NULL DEFAULT 1, PRIMARY KEY (name, key)) WITHOUT ROWID"
        )
    return [row[1] for row in connection.execute("PRAGMA table_info(feature)")]


def _connect(address: str) -> sqlite3.Connection:
    # Without an isolation level, transactions begin explicitly and not before each write.
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        raise NotUnicode(f"{what} is not Unicode text; send text without lone surrogates") from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
