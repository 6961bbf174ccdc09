"""Events in a file of SQLite: many processes of one host write it, and what is acknowledged survives a power loss."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from models.errors import EventsUnavailable
from models.events.event import MAX_EVENTS, SESSION, Event
from models.events.group_commit import GroupCommit
from models.events.identity import newest
from models.events.migrations import migrate
from models.events.sqlite_tables import (
    ERASE,
    SELECT,
    TABLES,
    events_of,
    insert,
    last_seq_of,
    of_sessions,
    transaction,
)
from models.files import put_file, temporary_path

FORMAT = 1
"""Version of the tables; a store of a later one is refused."""
BUSY_TIMEOUT_S = 5.0
"""How long a writer waits for those of other processes."""
POLL_S = 0.001
BLOCK = 5_000
"""Events of a block of a scan."""
LOCK_SUFFIX = "-lock"
HEADER = b"SQLite format 3\0"


class SqliteEvents:
    """An event store in one file, for any number of processes of one host; see `EventStore`.

    Writers take turns by a lock of their own on a file next to it: SQLite would let them poll in steps of up to 100 ms,
    and a process that dies gives it up. The last line of defence, SQLite's own lock, is never waited for in practice.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Raises EventsUnavailable for a file that is missing, damaged, of a newer format or not an event store."""
        self.path = path
        with _typed(path):
            if create and not path.exists():
                _create(path)
            self._reader = _File(path)
            self._writer: _File | None = None
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._commits = GroupCommit(self._commit, name=str(path))

    @property
    def store_id(self) -> str:
        """The id of the store that the file holds, also after it was replaced by another."""
        return self._reader.store_id

    def append(self, events: Sequence[Event], /) -> list[bool]:
        """See `EventStore.append`."""
        return self._commits.append(events) if events else []

    def of(self, *, user_id: str | None, session_id: str | None, after_seq: int) -> list[Event]:
        """See `EventStore.of`."""
        column, value = ("user_id", user_id) if user_id is not None else ("session_id", session_id)
        with self._read() as connection:
            select = f"{SELECT} WHERE {column} = ? AND seq > ? ORDER BY seq DESC LIMIT {MAX_EVENTS}"
            found = events_of(connection.execute(select, (value, after_seq)))
            if user_id is not None:
                found += of_sessions(connection, user_id, session_id, after_seq)
        return newest(found)

    def owner(self, session_id: str, /) -> str | None:
        """See `EventStore.owner`."""
        select = "SELECT user_id FROM login WHERE session_id = ? ORDER BY time_us DESC, user_id DESC LIMIT 1"
        with self._read() as connection:
            row = connection.execute(select, (session_id,)).fetchone()
        return None if row is None else str(row[0])

    def last_seq(self) -> int:
        """See `EventStore.last_seq`."""
        with self._read() as connection:
            return last_seq_of(connection)

    def scan(self, *, after_seq: int, until_seq: int) -> Iterator[list[Event]]:
        """See `EventStore.scan`; no transaction is open between two blocks."""
        select = f"{SELECT} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {BLOCK}"
        while True:
            with self._read() as connection:
                block = events_of(connection.execute(select, (after_seq, until_seq)))
            if not block:
                return
            yield block
            after_seq = block[-1].seq

    def erase(self, user_id: str, /) -> int:
        """See `EventStore.erase`; the bytes in the file are overwritten."""
        session_id = user_id.removeprefix(SESSION) if user_id.startswith(SESSION) else None
        with self._write() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            with transaction(connection):
                num_erased = connection.execute(ERASE, {"user": user_id, "session": session_id}).rowcount
                connection.execute("DELETE FROM login WHERE user_id = ?", (user_id,))
            # Until then the write-ahead log has them.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return num_erased

    def num_bytes(self) -> int:
        """See `EventStore.num_bytes`."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """See `EventStore.close`."""
        self._commits.close()
        with self._writing, self._reading:
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def _commit(self, events: Sequence[Event]) -> list[bool]:
        with self._write() as connection, transaction(connection):
            return [insert(connection, event) for event in events]

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """The connection that writes, while no other process does; raises EventsUnavailable."""
        with self._writing, _typed(self.path), turn(self.path):
            if self._writer is None:
                self._writer = _File(self.path)
            elif not self._writer.is_current():
                self._writer = self._writer.reopened()
            try:
                yield self._writer.connection
            except sqlite3.Error:
                # It may be the connection that is broken, and the next one is not.
                self._writer.close()
                self._writer = None
                raise
            if not self._writer.is_current():
                raise EventsUnavailable(f"{self.path} was replaced or deleted meanwhile; send the events again")

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._reading, _typed(self.path):
            if not self._reader.is_current():
                with turn(self.path):
                    self._reader = self._reader.reopened()
            yield self._reader.connection


class _File:
    """A connection to a file that holds an event store.

    SQLite finds a write-ahead log by its name, whatever file lies next to it, and what was acknowledged may be in the
    log only. So where the file or the log is another one, what the former log holds goes into the former file first,
    wherever that is now; only then is the log deleted, and only for a file that is one of SQLite.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        # Before it is opened, so that a replacement in between is noticed.
        identity = _identity(path)
        if identity is None:
            raise EventsUnavailable(f"no event store at {path}; `shopkeeper deploy` creates it", retry_after_s=30)
        _check_header(path)
        with ExitStack() as on_failure:
            self.connection = on_failure.enter_context(closing(_connect(path)))
            self.store_id = _checked(self.connection, path)
            on_failure.pop_all()
        self._identities = identity, _identity(self._log)

    def is_current(self) -> bool:
        """Whether the path still leads to the file, and that of its write-ahead log to the log in use."""
        return (_identity(self._path), _identity(self._log)) == self._identities

    def reopened(self) -> _File:
        """The file that is at the path now; while no other process writes."""
        if _identity(self._path) is not None:
            _check_header(self._path)
            self._empty_log()
            if _identity(self._log) == self._identities[1]:  # of the former file, and SQLite would apply it to this one
                for suffix in ("-wal", "-shm"):
                    self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        opened = _File(self._path)
        self.close()
        return opened

    def close(self) -> None:
        """Close the connection; SQLite leaves the log alone if the file was replaced."""
        self.connection.close()

    def _empty_log(self) -> None:
        """Bring what the log holds into its own file; nothing is left to do where another process has."""
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            _, num_frames, num_done = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if num_frames == num_done:
                return
            if time.monotonic() > deadline_s:
                raise EventsUnavailable(f"{self._path} was replaced while its former file is read; try again")
            time.sleep(POLL_S)


def _check_header(path: Path) -> None:
    """Raise EventsUnavailable for what is no file of SQLite, which would delete the log next to an empty one."""
    if not path.is_file():
        raise EventsUnavailable(f"{path} is no file; move it away, and the store back", retry_after_s=30)
    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            raise EventsUnavailable(
                f"{path} is damaged or no event store; restore a backup, or move it away and deploy again",
                retry_after_s=60,
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _create(path: Path) -> None:
    """Create a store, complete before it has its name; of several concurrent creators the first wins."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size and not path.exists():
        raise EventsUnavailable(
            f"{path} is missing, and its write-ahead log {log} may hold events that it lacks; move the store back, or "
            "the log away too",
            retry_after_s=60,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, finished = temporary_path(path), temporary_path(path)
    try:
        for each in (temporary, finished):
            each.touch(mode=0o600)  # SQLite gives its auxiliary files the same permissions
        with closing(_connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {TABLES} COMMIT;")
            meta = [("store_id", uuid.uuid4().hex), ("format", str(FORMAT))]
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        put_file(temporary, finished)  # synced to disk
        with suppress(FileExistsError):
            os.link(finished, path)
    finally:
        for leftover in (*temporary.parent.glob(f"{temporary.name}*"), finished):
            leftover.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # Without an isolation level, transactions begin explicitly and not before each write.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    # A commit returns when the log is on the disk.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _checked(connection: sqlite3.Connection, path: Path) -> str:
    """The id of the store; raises EventsUnavailable for another format or another file."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        raise EventsUnavailable(f"{path} is not an event store; move it away, or name another", retry_after_s=60)
    migrate(connection)
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if int(meta["format"]) > FORMAT:
        raise EventsUnavailable(
            f"{path} has format {meta['format']}, and this release of Shopkeeper reads up to {FORMAT}; upgrade it",
            retry_after_s=60,
        )
    return str(meta["store_id"])


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """While no other process writes; raises EventsUnavailable if one does for too long."""
    descriptor = os.open(f"{path}{LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise EventsUnavailable(
                        f"{path} is locked by another process; try again", retry_after_s=1
                    ) from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _typed(path: Path) -> Iterator[None]:
    """Turns the errors of SQLite and of the system into EventsUnavailable."""
    try:
        yield
    except EventsUnavailable:
        raise
    except (sqlite3.Error, OSError) as error:
        reason, retry_after_s = _reason(error)
        raise EventsUnavailable(f"{path} {reason}", retry_after_s=retry_after_s) from error


def _reason(error: sqlite3.Error | OSError) -> tuple[str, int]:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return "cannot be written: the disk is full; free some space", 30
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "is locked by another process; try again", 1
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"is damaged ({error}); restore a backup, or move it away and deploy again", 60
    return f"cannot be used: {error}; check the disk and the permissions", 30
