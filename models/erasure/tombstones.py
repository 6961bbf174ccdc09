"""Tombstones of erased users in one SQLite file of the store: salted hashes, honoured by prepare, predict and serve."""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from models.erasure.erased import FOREVER, Erased, checked_id, digest_of
from models.errors import TombstonesUnreadable
from models.raw.ids import id_text

NAME = "erased.sqlite"
"""File of the tombstones in a store."""
BUSY_TIMEOUT_S = 5.0
SALT_BYTES = 32
RECEIPTS = "erasures"
"""Directory of the receipts next to the file: where there are some, the file must be there too."""

_TABLES = """
CREATE TABLE IF NOT EXISTS salt (value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS erased (
    digest BLOB PRIMARY KEY, seq INTEGER NOT NULL, at_s REAL NOT NULL, until_s REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS swept (place TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
    digest BLOB, fingerprint TEXT, place TEXT NOT NULL, PRIMARY KEY (digest, fingerprint)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rewritten (old TEXT, new TEXT, PRIMARY KEY (old, new)) WITHOUT ROWID;
"""
"""`until_s` is null while a user is erased, and the time of the new consent after that. `swept` has up to which
tombstone a prepared data directory was searched, `held` which data had a user, `rewritten` which replaced which."""


class Tombstones:
    """The erased users of a store; thread-safe, and what another process writes holds from its commit on.

    Nothing is cached: a look-up is one SELECT, and one `stat` where nobody was ever erased, so no reader lags behind.
    """

    def __init__(self, path: Path) -> None:
        """The file need not exist: then nobody is erased."""
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._salt = b""

    def add(self, user_ids: Iterable[str]) -> list[bool]:
        """Erase users, durably before it returns; False for those who are erased already. Raises ValueError."""
        ids, now = [checked_id(one) for one in user_ids], time.time()
        with self._writing() as connection:
            (seq,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM erased").fetchone()
            added = []
            for user_id in ids:
                digest = digest_of(user_id, self._salt)
                row = connection.execute("SELECT until_s FROM erased WHERE digest = ?", (digest,)).fetchone()
                added.append(row is None or row[0] is not None)
                if added[-1]:
                    seq += 1
                    connection.execute("INSERT OR REPLACE INTO erased VALUES (?, ?, ?, NULL)", (digest, seq, now))
        return added

    def lift(self, user_id: str, *, now_s: float | None = None) -> bool:
        """A new consent: the user is known again, and events from now on count; False if they were not erased."""
        user_id, now = checked_id(user_id), time.time() if now_s is None else now_s
        if not self.path.exists():
            return False
        with self._writing() as connection:
            changed = connection.execute(
                "UPDATE erased SET until_s = ? WHERE digest = ? AND until_s IS NULL",
                (now, digest_of(user_id, self._salt)),
            )
            return changed.rowcount > 0

    def has(self, user_id: str) -> bool:
        """Whether a user is erased now; raises TombstonesUnreadable where that cannot be known."""
        return self.any_of((user_id,))

    def any_of(self, user_ids: Iterable[str | None]) -> bool:
        """Whether any of these users is erased now."""
        return any(self.erased_of(user_ids))

    def erased_of(self, user_ids: Iterable[str | None]) -> list[bool]:
        """Whether each of these users is erased now; None is nobody."""
        with self._reading() as connection:
            if connection is None:
                return [False for _ in user_ids]
            select = "SELECT 1 FROM erased WHERE digest = ? AND until_s IS NULL"
            return [
                one is not None
                and connection.execute(select, (digest_of(str(id_text(one)), self._salt),)).fetchone() is not None
                for one in user_ids
            ]

    def erased(self) -> Erased:
        """All erased users, for a pass over data; including those who have consented anew, with the time of that."""
        with self._reading() as connection:
            rows = [] if connection is None else connection.execute("SELECT digest, until_s FROM erased").fetchall()
            until = {digest: FOREVER if until_s is None else until_s for digest, until_s in rows}
            return Erased(self._salt, until) if rows else Erased()

    def digest(self, user_id: str) -> str:
        """The salted hash of an id as text, by which receipts name the user; makes the salt if there is none."""
        if not self.path.exists():
            with self._writing():
                pass
        with self._reading():
            return digest_of(checked_id(user_id), self._salt).hex()

    @property
    def last_seq(self) -> int:
        """The number of the newest tombstone; 0 where there is none."""
        with self._reading() as connection:
            row = connection and connection.execute("SELECT COALESCE(MAX(seq), 0) FROM erased").fetchone()
            return int(row[0]) if row else 0

    def seq_of(self, digest: str) -> int:
        """The number of a user's tombstone, given by `digest`; 0 for a user who was never erased."""
        select = "SELECT seq FROM erased WHERE digest = ?"
        with self._reading() as connection:
            row = connection and connection.execute(select, (bytes.fromhex(digest),)).fetchone()
            return int(row[0]) if row else 0

    def swept(self, place: str) -> int:
        """Up to which tombstone a place, such as recommender/data/0123456789abcdef, was searched."""
        with self._reading() as connection:
            row = connection and connection.execute("SELECT seq FROM swept WHERE place = ?", (place,)).fetchone()
            return int(row[0]) if row else 0

    def all_swept(self) -> list[tuple[str, int]]:
        """All places that were searched, and up to which tombstone."""
        with self._reading() as connection:
            return [] if connection is None else connection.execute("SELECT place, seq FROM swept").fetchall()

    def mark_swept(self, place: str, seq: int) -> None:
        """Record that a place was searched for the tombstones up to this one: it holds none of them.

        Where it is gone, it held nobody but those of whom `held_by` says so.
        """
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO swept VALUES (?, ?)", (place, seq))

    def record_held(self, fingerprint: str, place: str, digests: Iterable[bytes]) -> None:
        """Record which erased users were in data, before these are deleted."""
        rows = [(digest, fingerprint, place) for digest in digests]
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?)", rows)

    def held_by(self, digest: str) -> list[tuple[str, str]]:
        """The data that had a user, given by `digest`: fingerprint and place of each."""
        select = "SELECT fingerprint, place FROM held WHERE digest = ? ORDER BY place"
        with self._reading() as connection:
            return [] if connection is None else connection.execute(select, (bytes.fromhex(digest),)).fetchall()

    def all_held(self) -> set[str]:
        """Fingerprints of the data that had any erased user."""
        with self._reading() as connection:
            rows = [] if connection is None else connection.execute("SELECT DISTINCT fingerprint FROM held").fetchall()
            return {fingerprint for (fingerprint,) in rows}

    def record_rewritten(self, old: str, new: str) -> None:
        """Record that data with the fingerprint `new` replaced those with `old`."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO rewritten VALUES (?, ?)", (old, new))

    def rewritten(self) -> list[tuple[str, str]]:
        """All pairs of fingerprints, the old one and the one that replaced it."""
        with self._reading() as connection:
            return [] if connection is None else connection.execute("SELECT old, new FROM rewritten").fetchall()

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            self._forget_connection()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection to the file as it is now, or None where there is no file."""
        with self._lock:
            try:
                yield self._opened()
            except sqlite3.Error as error:
                self._forget_connection()
                raise TombstonesUnreadable(self.path, error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._opened()
                if connection is None:
                    self._create()
                    connection = self._opened()
                assert connection is not None
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    yield connection
            except TombstonesUnreadable:
                raise
            except (sqlite3.Error, OSError) as error:
                self._forget_connection()
                raise TombstonesUnreadable(self.path, error, writing=True) from error

    def _create(self) -> None:
        """Create the file with its salt, readable by its owner only, under a temporary name; the first writer wins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            connection = sqlite3.connect(temporary, isolation_level=None)
            connection.executescript(_TABLES)
            connection.execute("INSERT INTO salt VALUES (?)", (secrets.token_bytes(SALT_BYTES),))
            connection.close()
            if os.geteuid() == 0:  # the service, which runs as the owner of the store, has to read it
                owner = self.path.parent.stat()
                os.chown(temporary, owner.st_uid, owner.st_gid)
            os.link(temporary, self.path)
        except FileExistsError:
            return
        except OSError as error:
            raise TombstonesUnreadable(self.path, error, writing=True) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _opened(self) -> sqlite3.Connection | None:
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            self._forget_connection()
            if any((self.path.parent / RECEIPTS).glob("er_*.json")):  # or everybody who was erased would be known again
                raise TombstonesUnreadable(self.path, error) from error
            return None
        except OSError as error:
            raise TombstonesUnreadable(self.path, error) from error
        if self._connection is None or self._identity != (status.st_dev, status.st_ino):
            self._forget_connection()
            # A reader that may write can also recover what a killed writer left.
            mode = "rw" if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK) else "ro"
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection, self._identity = connection, (status.st_dev, status.st_ino)
            connection.execute("PRAGMA synchronous=FULL")
            row = connection.execute("SELECT value FROM salt").fetchone()
            if row is None:
                raise sqlite3.DatabaseError("it has no salt")
            self._salt = row[0]
        return self._connection

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._identity = None
