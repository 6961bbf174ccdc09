"""The tables of an event store in SQLite, and what is read from and written to them in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from models.events.event import MAX_EVENTS, Event
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
_COLUMNS = "event_id, user_id, session_id, item_id, event_type, time_us, recommendation_id, price, quantity"
SELECT = f"SELECT {_COLUMNS}, seq FROM event"
_INSERT = f"INSERT INTO event ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
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
    inserted = connection.execute(
        _INSERT,
        (
            event.event_id,
            event.user_id,
            event.session_id,
            event.item_id,
            event.event_type,
            event.time_us,
            event.recommendation_id,
            event.price,
            event.quantity,
        ),
    )
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


def events_of(rows: Iterator[Any]) -> list[Event]:
    return [
        Event(
            event_id, user_id, session_id, item_id, event_type, time_us / 1_000_000, recommended, price, quantity, seq
        )
        for event_id, user_id, session_id, item_id, event_type, time_us, recommended, price, quantity, seq in rows
    ]
