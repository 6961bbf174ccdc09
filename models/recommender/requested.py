"""The history of a request: its items and event types, stored or brought along, and which of its items are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.raw.ids import Id
from models.recommender.live.catalogue import Catalogue
from models.recommender.schema import Schema

Place = Callable[[str], int | None]
"""Item id -> its index; None for an unknown item."""
Event = tuple[int, int]
"""Item index and code of the type, 0 for an event without a type or with one that the log does not have."""


class HistoryEvent(BaseModel):
    """An event of a user's history: the item, and what the user did with it."""

    model_config = ConfigDict(extra="forbid")

    item_id: Id
    event_type: str | None = Field(default=None, max_length=256)
    """A type of the log, such as view or purchase, in any case; another one counts as no type."""


def stored_events(history: Sequence[Any], schema: Schema, place: Place | None = None) -> list[Event]:
    """Known items of a stored history, oldest first: item ids, or [item id, type] of a log with types."""
    pairs = [(event, None) if isinstance(event, str) else (event[0], event[1]) for event in history]
    return _known(pairs, schema, place)


def requested_events(history: Sequence[str | HistoryEvent], schema: Schema, place: Place | None = None) -> list[Event]:
    """Known items of a history that a request brings along."""
    pairs = [(event, None) if isinstance(event, str) else (event.item_id, event.event_type) for event in history]
    return _known(pairs, schema, place)


def seen_items(events: Sequence[Event], schema: Schema, *, exclude_seen: bool | None) -> set[int]:
    """The items of a history that must not be recommended again.

    Those with an event of a seen type or without a type. Where no type is seen, since repeats count, none by default,
    and all if the request says `exclude_seen`.
    """
    if exclude_seen is False or (exclude_seen is None and schema.seen_types == []):
        return set()
    if schema.is_seen is None or schema.seen_types == []:
        return {item for item, _ in events}
    return {item for item, code in events if schema.is_seen[code]}


def with_neighbours(events: Sequence[Event], live: Catalogue | None) -> tuple[list[Event], dict[int, int]]:
    """The events with items of the model in place of new ones, and which new item each of these stands for.

    An event of a new item that is similar to none is dropped.
    """
    if live is None or all(item < live.new.first for item, _ in events):
        return list(events), {}
    kept, replaced = list[Event](), dict[int, int]()
    for item, code in events:
        neighbour = live.new.neighbour(item)
        if neighbour is not None:
            kept.append((neighbour, code))
            if neighbour != item:
                replaced[neighbour] = item
    own = {item for item, _ in events}
    return kept, {neighbour: item for neighbour, item in replaced.items() if neighbour not in own}


def types_of(events: Sequence[Event], schema: Schema) -> list[int] | None:
    """Types of a history as input of a network, None for a model without types.

    An event without a type counts as one of the most frequent type: the network may never have seen one without.
    """
    if not schema.has_types:
        return None
    usual = int(np.argmax(schema.event_type_counts))
    return [code or usual for _, code in events]


def _known(pairs: Sequence[tuple[str, str | None]], schema: Schema, place: Place | None) -> list[Event]:
    codes, place = schema.type_codes, place or schema.index.get
    return [
        (index, codes.get(name.strip().lower(), 0) if name else 0)
        for item, name in pairs
        if (index := place(item)) is not None
    ]
