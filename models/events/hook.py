"""How events reach the answers of a family: whose a request needs, and what they change of its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.events.event import Event

FeatureValues = Mapping[str, Mapping[str, Any]]
"""Feature name -> key -> value."""


class Visitor(NamedTuple):
    """Whose events a request needs: a user's, an anonymous session's, or those of a user in a session."""

    user_id: str | None
    session_id: str | None


@dataclass(frozen=True, kw_only=True)
class EventUse:
    """A family's part in events; the service stores them, and reads those that prepared data lack."""

    whose: Callable[[Any], Visitor | None]
    """Whose events a request needs; None if nobody's, as for a request that brings its history along."""
    identified: Callable[[Any, str], Any]
    """The request of a session as that of the user who has logged in there."""
    until: Callable[[FeatureValues], Mapping[str, int]]
    """Event store -> the largest seq that the filled features hold already, given the values of `until_keys`."""
    until_keys: Mapping[str, Sequence[str]]
    """Feature -> keys."""
    more: Callable[[Any], Mapping[str, Sequence[str]]]
    """Feature -> keys that a request needs beyond `Feature.keys` where there are events to merge."""
    merge: Callable[[Any, FeatureValues, Sequence[Event]], FeatureValues]
    """The features of a request with events that they lack, which are in the order of `EventStore.of`."""
    is_known: Callable[[Any, str], bool]
    """Whether the model with this schema knows an item; others count after the next training."""


def events_path(route_prefix: str) -> str:
    """Where a family at this prefix takes events."""
    prefix = route_prefix.rstrip("/")
    return f"{prefix}/events" if prefix else "/v1/events"
