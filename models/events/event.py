"""An event of a shop: who did what with which item and when, as a store keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SESSION = "session:"
"""Begins the user id by which a session without a login is known, and no id of a user."""
COLUMNS = (
    "event_id",
    "user_id",
    "session_id",
    "item_id",
    "event_type",
    "time_us",
    "recommendation_id",
    "price",
    "quantity",
)
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
    def values(self) -> tuple[Any, ...]:
        """What a store keeps of an event besides its seq, in the order of COLUMNS."""
        who = (self.event_id, self.user_id, self.session_id)
        return (*who, self.item_id, self.event_type, self.time_us, self.recommendation_id, self.price, self.quantity)

    @classmethod
    def of(cls, values: Sequence[Any], *, seq: int) -> Event:
        """The event with these values, as `values` gives them."""
        event_id, user_id, session_id, item_id, event_type, time_us, recommended, price, quantity = values
        about = (recommended, price, quantity)
        return cls(event_id, user_id, session_id, item_id, event_type, time_us / 1_000_000, *about, seq)

    @property
    def visitor_id(self) -> str:
        """The id of the user, or that of the session as a user of its own."""
        return f"{SESSION}{self.session_id}" if self.user_id is None else self.user_id
