"""From older formats of the event store on SQLite to the present one, a step for each."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from models.events.sqlite_tables import transaction

LOGIN = """
CREATE TABLE login (
    session_id TEXT NOT NULL, user_id TEXT NOT NULL, time_us INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, PRIMARY KEY (session_id, user_id)
) WITHOUT ROWID
"""
FILL_LOGIN = """
INSERT INTO login (session_id, user_id, time_us, first_seq, last_seq)
SELECT session_id, user_id, min(time_us), min(seq),
    (SELECT max(seq) FROM event AS any_event WHERE any_event.session_id = event.session_id)
FROM event WHERE session_id IS NOT NULL AND user_id IS NOT NULL GROUP BY session_id, user_id
"""
"""The logins as far as the events that are there say."""

MIGRATIONS: Mapping[int, Sequence[str]] = {
    # Format 0, before the first release: no logins, no prices, nothing about recommendations.
    0: (
        "ALTER TABLE event ADD COLUMN recommendation_id TEXT",
        "ALTER TABLE event ADD COLUMN price REAL",
        "ALTER TABLE event ADD COLUMN quantity REAL",
        "CREATE INDEX IF NOT EXISTS event_by_user ON event (user_id) WHERE user_id IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS event_by_session ON event (session_id) WHERE session_id IS NOT NULL",
        LOGIN,
        FILL_LOGIN,
        "CREATE INDEX login_by_user ON login (user_id, last_seq)",
    ),
}
"""Format -> the statements that make it the next one."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a store to the present format in one transaction; changes nothing if it has it, or a later one.

    `connection` has no isolation level. Of several processes the first does it, while the others wait.
    """
    if format_of(connection) not in MIGRATIONS:
        return
    with transaction(connection):
        while (version := format_of(connection)) in MIGRATIONS:
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('format', ?)", (str(version + 1),))


def format_of(connection: sqlite3.Connection) -> int:
    """The format of a store; 0 if it does not say, as before there were several."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    return 0 if row is None else int(row[0])
