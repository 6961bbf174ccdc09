"""Copies of event stores: backups are files of SQLite, whatever kind of store they are of."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from models.errors import EventsUnavailable
from models.events.event import Event
from models.events.migrations import FILL_LOGIN
from models.events.sqlite import SqliteEvents, turn
from models.events.sqlite_tables import INSERT, last_seq_of
from models.events.store import EventStore, open_events
from models.files import put_file, replace_file, temporary_path

JUMP = 10**12
"""A restored store goes on at the next multiple: numbers that were given after the backup are never given again."""


def backup(store: EventStore, file: Path) -> int:
    """Write a copy of a store that may be in use, replacing an older copy atomically; returns the last number given.

    Raises ValueError for the file of the store itself, EventsUnavailable if the store cannot be read.
    """
    if isinstance(store, SqliteEvents) and file.exists() and file.samefile(store.path):
        raise ValueError(f"{file} is the event store itself; name another file for the backup")
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file, mode=0o600) as temporary:
        if isinstance(store, SqliteEvents):
            _copy(store.path, temporary)
        else:
            temporary.unlink()
            last_seq = store.last_seq()
            _write(temporary, store.store_id, last_seq, store.scan(after_seq=0, until_seq=last_seq))
        with closing(_connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")  # one file, which also read-only media can hold
            return last_seq_of(connection)


def restore(file: Path, address: str, *, force: bool = False) -> tuple[str, int]:
    """Make a backup the store at an address; returns the id of the store and its number of events.

    The store keeps its id and the numbers of its events, and goes on with larger numbers than it can ever have given.
    Raises ValueError for a file that is no backup, and for a store that has events unless it may be overwritten.
    """
    if not file.is_file():
        raise ValueError(f"there is no backup at {file}")
    if not force:
        _check_is_empty(address)
    with tempfile.TemporaryDirectory(prefix="shopkeeper-") as scratch:
        copy = Path(scratch) / "events.sqlite"
        store_id, num_events, last_seq = _checked_copy(file, copy)
        if "://" in address:
            from models.events.redis_store import RedisEvents  # needs a package of its own

            with closing(SqliteEvents(copy)) as source, closing(RedisEvents(address, is_restored=True)) as target:
                target.replace(store_id, last_seq, source.scan(after_seq=0, until_seq=last_seq))
        else:
            _put(copy, Path(address))
    return store_id, num_events


def _check_is_empty(address: str) -> None:
    if "://" not in address and not Path(address).exists():
        return
    with closing(open_events(address)) as store:
        if store.last_seq():
            raise ValueError(
                f"the event store {store.store_id} has numbered {store.last_seq():,} events already; back it up, then "
                "overwrite it with --force"
            )


def _checked_copy(file: Path, copy: Path) -> tuple[str, int, int]:
    """Copy a backup, in the present format and with the number at which it goes on; its id, events and last number."""
    try:
        _copy(file, copy)
        with closing(_connect(copy)) as connection:
            damage = connection.execute("PRAGMA quick_check").fetchone()[0]
        if damage != "ok":
            raise ValueError(f"{file} is damaged: {damage}; use another backup")
        with closing(SqliteEvents(copy)) as migrated:
            store_id = migrated.store_id
        with closing(_connect(copy)) as connection:
            last_seq = (last_seq_of(connection) // JUMP + 1) * JUMP
            _set_last_seq(connection, last_seq)
            connection.execute("PRAGMA journal_mode = WAL")
            num_events = int(connection.execute("SELECT count(*) FROM event").fetchone()[0])
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (sqlite3.Error, EventsUnavailable) as error:
        raise ValueError(f"{file} is not a backup of events: {error}") from None
    return store_id, num_events, last_seq


def _put(copy: Path, path: Path) -> None:
    """Make a complete file the store at a path, in the turn of its writers, who then notice the replacement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        temporary.touch(mode=0o600)
        temporary.write_bytes(copy.read_bytes())
        with turn(path):
            if path.exists():
                with suppress(sqlite3.Error), closing(_connect(path)) as former:
                    former.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for suffix in ("-wal", "-shm"):  # they belong to the former file
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            put_file(temporary, path, mode=0o600)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, store_id: str, last_seq: int, blocks: Iterator[Sequence[Event]]) -> None:
    """Create a store with events that keep their numbers."""
    SqliteEvents(path).close()
    with closing(_connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE meta SET value = ? WHERE key = 'store_id'", (store_id,))
        for block in blocks:
            connection.executemany(INSERT, [(*event.values, event.seq) for event in block])
        connection.execute(FILL_LOGIN)
        connection.execute("COMMIT")
        _set_last_seq(connection, last_seq)


def _copy(source: Path, target: Path) -> None:
    """SQLite's online backup: one moment of a file that may be written meanwhile."""
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as read,
        closing(_connect(target)) as to,
    ):
        read.backup(to)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _set_last_seq(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'event'")
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)", (seq,))
