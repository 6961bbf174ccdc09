"""The contract of an event store, and how one is opened by its address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from models.events.event import Event
from models.events.sqlite import SqliteEvents


class EventStore(Protocol):
    """Keeps the events of a shop; several processes may use one at once, and several threads one instance.

    Every method raises EventsUnavailable if the store cannot do it now: it is full, locked, damaged or unreachable.
    """

    @property
    def store_id(self) -> str:
        """Random, made once with the store; a watermark holds for the store with its id only."""
        ...

    def append(self, events: Sequence[Event], /) -> list[bool]:
        """Store events, durably before it returns; False where the event_id is already there. All or none is stored."""
        ...

    def of(self, *, user_id: str | None, session_id: str | None, after_seq: int) -> list[Event]:
        """The newest MAX_EVENTS of a user or a session that prepared data with the watermark `after_seq` lack.

        Ordered by time, then session (none first), then seq. A user's include the events without a user of sessions
        that belong to them by the rule of models/events/identity.py; also older ones, if their session has come to
        belong to the user after the watermark. Those of a session alone are all its events. With both, the user's
        include those of the session that belong to nobody else.
        """
        ...

    def owner(self, session_id: str, /) -> str | None:
        """The user whom a session belongs to now: the one who logged in last; None for an anonymous session."""
        ...

    def last_seq(self) -> int:
        """The largest seq that was ever given, 0 if none was."""
        ...

    def scan(self, *, after_seq: int, until_seq: int) -> Iterator[list[Event]]:
        """The events with after_seq < seq <= until_seq, in order of seq, in blocks."""
        ...

    def erase(self, user_id: str, /) -> int:
        """Delete the user's events, and those of sessions in which only they logged in; returns how many.

        `session:ID` is the user of a session that nobody logged in to.
        """
        ...

    def num_bytes(self) -> int:
        """What the events take on disk or, in a server that keeps them there, in memory."""
        ...

    def close(self) -> None:
        """Finish what was begun, and close all connections."""
        ...


def shown(address: str) -> str:
    """An address as it may be shown: a path, or that of a server without user and password."""
    if "://" not in address:
        return address
    from models.events.redis_server import shown_address

    return shown_address(address)


def open_events(address: str, *, create: bool = True) -> EventStore:
    """The event store at a path of SQLite or an address of Redis; raises ValueError for another, or EventsUnavailable.

    A store that does not exist is created, or refused without `create`.
    """
    if "://" in address:
        from models.events.redis_store import RedisEvents  # needs a package of its own

        return RedisEvents(address, create=create)
    return SqliteEvents(Path(address), create=create)
