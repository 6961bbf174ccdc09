"""Whose the events without a user are: of the user who logged in to their session, by the rule of `prepare`."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.events.event import MAX_EVENTS, Event


@dataclass(frozen=True)
class Login:
    """The first event of a user in a session."""

    session_id: str
    user_id: str
    time_us: int
    first_seq: int
    """The smallest seq of the user's events in the session, by which prepared data have the login or not."""


def logins_by_session(logins: Iterable[Login]) -> dict[str, list[Login]]:
    """The logins of each session in order of time; of one moment by user."""
    found = defaultdict(list)
    for login in sorted(logins, key=lambda each: (each.time_us, each.user_id)):
        found[login.session_id].append(login)
    return found


def owner_at(logins: Sequence[Login], time_us: int) -> str | None:
    """The user of a session at a time: who logged in last at or before it, else who logged in first; None for nobody.

    `logins` are those of the session in order, as `logins_by_session` gives them.
    """
    if not logins:
        return None
    place = bisect_right([each.time_us for each in logins], time_us) - 1
    return logins[max(place, 0)].user_id


def belonging(
    user_id: str,
    anonymous: Iterable[Event],
    logins: Mapping[str, Sequence[Login]],
    *,
    after_seq: int,
    visiting: str | None = None,
) -> list[Event]:
    """The events without a user that are this user's, and that prepared data with the watermark do not count as theirs.

    Those are events after the watermark, and older ones whose session has come to belong to the user since then.
    Events of the session `visiting` are the user's too if nobody has logged in there.
    """
    found = []
    for event in anonymous:
        of_session = logins.get(event.session_id or "", ())
        owner = owner_at(of_session, event.time_us)
        if owner != user_id and not (owner is None and event.session_id == visiting):
            continue
        known_then = [each for each in of_session if each.first_seq <= after_seq]
        if event.seq > after_seq or owner_at(known_then, event.time_us) != user_id:
            found.append(event)
    return found


def newest(events: Iterable[Event]) -> list[Event]:
    """The newest MAX_EVENTS in the order of `prepare`: by time, then session (none first), then seq."""
    return sorted(events, key=lambda each: (each.time_us, each.session_id or "", each.seq))[-MAX_EVENTS:]
