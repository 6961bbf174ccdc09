"""Live items in an SQLite file, for the replicas of one host."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from models.items.item import Kind, LiveItem, LiveValue, Put, Value

LAYOUT = 1
"""Version of the tables; a store with a larger one was written by a newer release."""
BUSY_TIMEOUT_S = 5.0
"""How long a writer waits for another one."""
TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS item (item_id TEXT PRIMARY KEY, attributes TEXT NOT NULL, withdrawn INTEGER NOT NULL,
    version INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS item_version ON item (version);
CREATE TABLE IF NOT EXISTS attribute (name TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
"""
READ = "SELECT attributes, withdrawn FROM item WHERE item_id = ?"
WRITE = "INSERT OR REPLACE INTO item (item_id, attributes, withdrawn, version) VALUES (?, ?, ?, ?)"


class ItemsUnreadable(OSError):
    """A file that is not a store of live items or is damaged; the message names the file and the remedy."""


class ItemsBusy(OSError):
    """Another writer holds the store."""


class SqliteItems:
    """One connection; used by one thread at a time. Rows are never deleted, so that versions only grow."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises FileNotFoundError for a missing file unless `create`, ItemsUnreadable for one that is no store.

        A new file is readable by its owner only.
        """
        self.path = path
        if not create and not path.is_file():
            raise FileNotFoundError(f"there are no live items at {path}; deploy again, which makes the file")
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # SQLite gives its auxiliary files the same permissions
        with self._described(), ExitStack() as on_failure:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            on_failure.callback(self._connection.close)
            self.store_id = self._open(create=create)
            on_failure.pop_all()

    def put(self, items: Sequence[Put], *, kinds: Mapping[str, Kind], now_s: float) -> int:
        """See ItemStore."""
        with self._writing() as version:
            for item in items:
                row = self._connection.execute(READ, (item.item_id,)).fetchone()
                merged: dict[str, Any] = json.loads(row[0]) if row else {}
                merged.update({name: [value, now_s] for name, value in item.attributes.items()})
                self._write(item.item_id, merged, version, withdrawn=False)
            self._connection.executemany("INSERT OR IGNORE INTO attribute (name, kind) VALUES (?, ?)", kinds.items())
            return version

    def withdraw(self, item_id: str) -> int:
        """See ItemStore."""
        with self._writing() as version:
            row = self._connection.execute(READ, (item_id,)).fetchone()
            self._write(item_id, json.loads(row[0]) if row else {}, version, withdrawn=True)
            return version

    def version(self) -> int:
        """See ItemStore."""
        with self._described():
            return self._version()

    def changed(self, *, after: int) -> list[LiveItem]:
        """See ItemStore."""
        select = "SELECT item_id, attributes, withdrawn, version FROM item WHERE version > ? ORDER BY version, item_id"
        with self._described():
            return [
                LiveItem(item_id, _values(json.loads(attributes)), bool(withdrawn), version)
                for item_id, attributes, withdrawn, version in self._connection.execute(select, (after,))
            ]

    def kinds(self) -> dict[str, Kind]:
        """See ItemStore."""
        with self._described():
            return dict(self._connection.execute("SELECT name, kind FROM attribute"))

    def close(self) -> None:
        """See ItemStore."""
        self._connection.close()

    def _open(self, *, create: bool) -> str:
        """Make the tables if they are to be created, check their layout, and return the store's id."""
        if create:
            # Not a write-ahead log, which a file that is moved away and back would leave behind: writes are few.
            self._connection.execute("PRAGMA journal_mode=DELETE")
        # An acknowledged item survives a power loss.
        self._connection.execute("PRAGMA synchronous=FULL")
        if create:
            with self._transaction():
                for statement in filter(str.strip, TABLES.split(";")):
                    self._connection.execute(statement)
                rows = {"layout": str(LAYOUT), "store_id": uuid.uuid4().hex}
                self._connection.executemany("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", rows.items())
        meta = dict(self._connection.execute("SELECT key, value FROM meta").fetchall())
        if int(meta.get("layout", 0)) > LAYOUT:
            raise ItemsUnreadable(f"{self.path} was written by a newer release; serve it with that one")
        return str(meta["store_id"])

    def _version(self) -> int:
        return int(self._connection.execute("SELECT COALESCE(MAX(version), 0) FROM item").fetchone()[0])

    def _write(self, item_id: str, attributes: Mapping[str, Any], version: int, *, withdrawn: bool) -> None:
        text = json.dumps(attributes, ensure_ascii=False)
        self._connection.execute(WRITE, (item_id, text, int(withdrawn), version))

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """A transaction that writes the next version."""
        with self._described(), self._transaction():
            yield self._version() + 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection:  # commits, or rolls back unless SQLite has, as it does when the disk is full
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _described(self) -> Iterator[None]:
        """Say what a failure of SQLite means."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise ItemsBusy(f"{self.path} is being written; try again later") from error
            raise ItemsUnreadable(f"{self.path} cannot be used: {error}; {_REMEDY}") from error
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:
            raise ItemsUnreadable(f"{self.path} is damaged: {error}; {_REMEDY}") from error


_REMEDY = "move it away, restore a copy or deploy again, and put the items again"


def _values(stored: Mapping[str, Iterable[Any]]) -> dict[str, LiveValue]:
    found = {}
    for name, (value, put_at_s) in stored.items():
        checked: Value | None = value
        found[name] = LiveValue(checked, float(put_at_s))
    return found
