"""An event of a shop: who did what with which item and when, as a store keeps it."""

from __future__ import annotations

from dataclasses import dataclass

SESSION = "session:"
"""Begins the user id by which a session without a login is known, and no id of a user."""
MAX_EVENTS = 2000
"""The newest events of a user or session that a store returns; as many as a served history has."""


@dataclass(frozen=True)
class Event:
    """An event of a user, of a session, or of a user in a session."""

    event_id: str
    """Unique in a store: an event with the id of a stored one is not stored again."""
    user_id: str | None
    session_id: str | None
    item_id: str
    event_type: str | None
    timestamp_s: float
    """Seconds since 1970; exact to the microsecond."""
    recommendation_id: str | None = None
    """The answer that the user followed, if the shop knows it."""
    price: float | None = None
    quantity: float | None = None
    seq: int = 0
    """Given by the store: strictly increasing in the order of acknowledgement over all processes, never reused."""

    @property
    def time_us(self) -> int:
        """Microseconds since 1970, the precision of a store and of `prepare`."""
        return round(self.timestamp_s * 1_000_000)

    @property
    def visitor_id(self) -> str:
        """The id of the user, or that of the session as a user of its own."""
        return f"{SESSION}{self.session_id}" if self.user_id is None else self.user_id
