"""The tables of an event store in SQLite, and what is read from and written to them in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from models.events.event import COLUMNS, MAX_EVENTS, Event
from models.events.identity import Login, belonging, logins_by_session

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT, session_id TEXT,
    item_id TEXT NOT NULL, event_type TEXT, time_us INTEGER NOT NULL, recommendation_id TEXT, price REAL, quantity REAL
);
CREATE INDEX event_by_user ON event (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX event_by_session ON event (session_id) WHERE session_id IS NOT NULL;
CREATE TABLE login (
    session_id TEXT NOT NULL, user_id TEXT NOT NULL, time_us INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, PRIMARY KEY (session_id, user_id)
) WITHOUT ROWID;
CREATE INDEX login_by_user ON login (user_id, last_seq);
"""
"""`login` has the first event of each user in each session, and the last event of the session, whoever's it is."""
SELECT = f"SELECT {', '.join(COLUMNS)}, seq FROM event"
INSERT = f"INSERT INTO event ({', '.join(COLUMNS)}, seq) VALUES ({', '.join('?' for _ in COLUMNS)}, ?)"
"""Of the values of an event and its seq; null for the next one."""
_LOGIN = """
INSERT INTO login (session_id, user_id, time_us, first_seq, last_seq) VALUES (:session, :user, :time, :seq, :seq)
ON CONFLICT (session_id, user_id) DO UPDATE SET time_us = min(time_us, excluded.time_us)
"""
_LOGINS = "SELECT session_id, user_id, time_us, first_seq FROM login WHERE session_id IN "
_ACTIVE = "(SELECT session_id FROM login WHERE user_id = :user AND last_seq > :after UNION SELECT :session)"
"""The sessions of a user with events after the watermark, and the session of the request."""
_ANONYMOUS = f"{SELECT} WHERE session_id IN {_ACTIVE} AND user_id IS NULL ORDER BY seq DESC LIMIT {MAX_EVENTS}"
ONLY_THEIRS = """
SELECT session_id FROM login AS theirs WHERE user_id = :user AND NOT EXISTS
(SELECT 1 FROM login AS other WHERE other.session_id = theirs.session_id AND other.user_id != :user)
"""

ERASE = f"""
DELETE FROM event WHERE user_id = :user OR (user_id IS NULL AND (
    session_id IN ({ONLY_THEIRS})
    OR (session_id = :session AND NOT EXISTS (SELECT 1 FROM login WHERE session_id = :session))
))
"""
"""Of a user, and of sessions in which only they logged in; or of a session that nobody logged in to."""


def insert(connection: sqlite3.Connection, event: Event) -> bool:
    """Insert an event unless its id is there; keeps the logins of its session."""
    # An insert that is ignored would use up a seq.
    if connection.execute("SELECT 1 FROM event WHERE event_id = ?", (event.event_id,)).fetchone():
        return False
    inserted = connection.execute(INSERT, (*event.values, None))
    seq = inserted.lastrowid
    if event.session_id is not None:
        if event.user_id is not None:
            login = {"session": event.session_id, "user": event.user_id, "time": event.time_us, "seq": seq}
            connection.execute(_LOGIN, login)
        connection.execute("UPDATE login SET last_seq = ? WHERE session_id = ?", (seq, event.session_id))
    return True


def of_sessions(connection: sqlite3.Connection, user_id: str, session_id: str | None, after_seq: int) -> list[Event]:
    """The events without a user of the sessions that belong to a user."""
    asked = {"user": user_id, "after": after_seq, "session": session_id}
    logins = [Login(*row) for row in connection.execute(_LOGINS + _ACTIVE, asked)]
    if not logins and session_id is None:
        return []
    anonymous = events_of(connection.execute(_ANONYMOUS, asked))
    return belonging(user_id, anonymous, logins_by_session(logins), after_seq=after_seq, visiting=session_id)


def events_of(rows: Iterable[Sequence[Any]]) -> list[Event]:
    """The events of rows of SELECT."""
    return [Event.of(values, seq=seq) for *values, seq in rows]


def last_seq_of(connection: sqlite3.Connection) -> int:
    """The largest seq that was ever given, 0 if none was."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return 0 if row is None else int(row[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction of a connection without isolation level, which writes from its start."""
    with connection:  # commits, or rolls back unless SQLite has, as it does when the disk is full
        connection.execute("BEGIN IMMEDIATE")
        yield
