"""The feature store: values that requests need before `encode`, in SQLite files that jobs or endpoints write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from models.errors import FeatureStoreLocked, FeatureStoreUnreadable
from models.family import Feature, Features
from models.files import replace_file
from models.prepared import Prepared

WRITE_CHUNK = 10_000
READ_CHUNKS = (1, 8, 64, 512)
"""Keys that one statement reads; of few sizes, as SQLite compiles a statement for each, and below its limit of 999."""
MAX_KEYS = 10_000
"""Keys of one request, so that what it costs is bounded."""
BUSY_TIMEOUT_S = 5.0
"""How long a writer waits for a lock."""
ABSENT = 0
"""Version of a missing key."""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Keys = Mapping[str, Sequence[str]]
"""Feature name -> the keys that a request needs, each once."""
Row = tuple[str, str, str, int]
"""Feature name, key, value as JSON, version."""


class NotUnicode(ValueError):
    """A key or value of a request that no store can contain; the message is for the client."""


class TooManyKeys(ValueError):
    """A request that needs more values of a store than one may; the message is for the client."""


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

    def __init__(self, path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Raises FileNotFoundError for a missing file, FeatureStoreUnreadable for one that is not a feature store.

        All methods raise FeatureStoreUnreadable where the file cannot be read or written, and FeatureStoreLocked where
        another process has locked it for longer than `busy_timeout_s`.
        """
        self.path = path
        if read_only and not path.is_file():
            raise FileNotFoundError(f"no feature store at {path}; `shopkeeper deploy` writes it")
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        address = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
        with self._faults():
            self._connection = _connect(address, busy_timeout_s=busy_timeout_s)
            try:
                columns = _open(self._connection, read_only=read_only)
            except sqlite3.Error:
                self._connection.close()
                raise
        if not columns:
            self._connection.close()
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

        Raises NotUnicode for a key with lone surrogates, TooManyKeys for more than MAX_KEYS.
        """
        keys = keys_of(features, request)
        return found_in(keys, self.fetch(keys), path=self.path)

    def fetch(self, keys: Keys) -> list[Row]:
        """The rows with these keys, a consistent snapshot; missing keys have none."""
        chunks = [(name, chunk) for name, wanted in keys.items() for chunk in _chunks(wanted)]
        if not chunks:
            return []
        with self._faults():
            if len(chunks) == 1:  # a statement alone is a snapshot
                return self._fetch(*chunks[0])
            with self._transaction("DEFERRED"):
                return [row for name, chunk in chunks for row in self._fetch(name, chunk)]

    def probe(self) -> None:
        """Read a row, if there is one."""
        with self._faults():
            self._connection.execute("SELECT key FROM feature LIMIT 1").fetchone()

    def rows(self, name: str) -> list[tuple[str, Any]]:
        """All (key, value) pairs of a feature, unordered; FeatureStoreUnreadable for a value that is not JSON."""
        with self._faults():
            found = self._connection.execute("SELECT key, value FROM feature WHERE name = ?", (name,)).fetchall()
        try:
            return [(key, json.loads(value)) for key, value in found]
        except (TypeError, ValueError) as error:
            raise _damaged(self.path, error) from error

    def compare_and_set(self, changes: Sequence[Change]) -> bool:
        """Write all values, or none if any key no longer has the version of its change; returns whether they were.

        Raises NotUnicode for a value with lone surrogates.
        """
        rows = [(each.name, each.key, _json(each.value), each.version + 1) for each in changes]
        for name, key, value, _ in rows:
            _check_unicode(value, f"the new value of {name!r} for {key!r}")
        with self._faults(), self._transaction("IMMEDIATE"):
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

    def _fetch(self, name: str, keys: Sequence[str]) -> list[Row]:
        size = next(size for size in READ_CHUNKS if size >= len(keys))
        select = f"SELECT name, key, value, {self._version} FROM feature WHERE name = ? AND key IN ({_marks(size)})"
        padding = [keys[-1]] * (size - len(keys))
        return self._connection.execute(select, (name, *keys, *padding)).fetchall()

    def _insert(self, chunk: list[tuple[str, str, str]]) -> int:
        self._connection.executemany("INSERT OR REPLACE INTO feature (name, key, value) VALUES (?, ?, ?)", chunk)
        written = len(chunk)
        chunk.clear()
        return written

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED:
                raise FeatureStoreLocked(f"{self.path} is locked by another process: {error}") from error
            raise FeatureStoreUnreadable(
                f"{self.path} is not a readable feature store: {error}; deploy again"
            ) from error

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


def keys_of(features: Sequence[Feature], request: Any) -> dict[str, list[str]]:
    """The keys that a request needs of each feature.

    Raises NotUnicode for a key with lone surrogates, TooManyKeys for more than MAX_KEYS.
    """
    found = {feature.name: list(dict.fromkeys(feature.keys(request))) for feature in features}
    for name, wanted in found.items():
        for key in wanted:
            _check_unicode(key, f"the key {key!r} of {name!r}")
    num_keys = sum(map(len, found.values()))
    if num_keys > MAX_KEYS:
        raise TooManyKeys(
            f"the request asks for {num_keys} stored values, and at most {MAX_KEYS} are allowed; ask for fewer at once"
        )
    return found


def found_in(keys: Keys, rows: Sequence[Row], *, path: Path) -> Found:
    """The values of rows, with ABSENT for the keys without one; FeatureStoreUnreadable for a row that is not JSON."""
    values: dict[str, dict[str, Any]] = {name: {} for name in keys}
    versions = {(name, key): ABSENT for name, wanted in keys.items() for key in wanted}
    try:
        for name, key, value, version in rows:
            values[name][key] = json.loads(value)
            versions[name, key] = version
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return Found(values, versions)


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


def _connect(address: str, *, busy_timeout_s: float) -> sqlite3.Connection:
    # Without an isolation level, transactions begin explicitly and not before each write.
    return sqlite3.connect(address, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), READ_CHUNKS[-1]):
        yield keys[start : start + READ_CHUNKS[-1]]


@lru_cache
def _marks(size: int) -> str:
    return ", ".join("?" * size)


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        raise NotUnicode(f"{what} is not Unicode text; send text without lone surrogates") from None


def _damaged(path: Path, error: Exception) -> FeatureStoreUnreadable:
    return FeatureStoreUnreadable(f"{path} has a damaged value: {error}; deploy again")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
