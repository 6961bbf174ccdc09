"""New events in served histories: those that shops have sent and prepared data lack, merged by time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.events.event import Event
from models.events.hook import EventUse, FeatureValues, Visitor
from models.family import Feature
from models.prepared import Prepared
from models.recommender.data import MAX_SERVED_HISTORY
from models.recommender.prepare.events import ANONYMOUS, hash_ids
from models.recommender.prepare.moments import moment_order
from models.recommender.schema import Schema

HISTORY, TIMES, UNTIL = "history", "history_times", "events_until"
"""Features: the stored history, its times, and how far event stores are part of it."""
ALL = ""
"""The only key of UNTIL."""


def history_key(request: Any) -> str | None:
    """The user whose stored history a request needs; an anonymous session is a user with an id of its own."""
    user_id, session_id = getattr(request, "user_id", None), getattr(request, "session_id", None)
    if getattr(request, "history", None) is not None or (user_id is None and session_id is None):
        return None
    return str(user_id) if user_id is not None else f"{ANONYMOUS}{session_id}"


def history_keys(request: Any) -> list[str]:
    """The same as the keys of a feature."""
    key = history_key(request)
    return [] if key is None else [key]


def history_times(data: Prepared) -> Iterator[tuple[str, list[int]]]:
    """When the events of each served history were, in seconds: the first time, then the differences, which are shorter.

    For a log without times their positions, which precede any time.
    """
    for directory in data.shards():
        offsets, seconds = load_array(directory / "offsets.npy"), load_array(directory / "timestamps.npy", mmap=True)
        users = pq.read_table(directory / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
        for user_id, begin, end in zip(users, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            yield user_id, np.diff(seconds[max(begin, end - MAX_SERVED_HISTORY) : end], prepend=0).tolist()


def merge(request: Any, features: FeatureValues, events: Sequence[Event]) -> FeatureValues:
    """The features with events in the history: by time, after stored ones of the same second, the newest at most.

    An event that the stored history has with the same item, second and type is an exact repeat, as of a shop that sends
    what its own log has too, and counts once.
    """
    key = history_key(request)
    if key is None or not events:
        return features
    stored: list[Any] = features.get(HISTORY, {}).get(key, [])
    seconds = list(accumulate(features.get(TIMES, {}).get(key, [])))
    if len(seconds) != len(stored):  # a feature store that an earlier release filled has no times
        seconds = [0] * len(stored)
    new = _without_repeats(_ordered(events, key), stored, seconds)
    merged = _by_time(stored, seconds, new)[-MAX_SERVED_HISTORY:]
    return {**features, HISTORY: {**features.get(HISTORY, {}), key: merged}}


FEATURES = (
    # EVENTS names their keys, as only requests with new events need them, and batch prediction never does.
    Feature(name=TIMES, keys=lambda request: [], rows=history_times, is_personal=True),
    Feature(name=UNTIL, keys=lambda request: [], rows=lambda data: [(ALL, data.schema(Schema).events_until)]),
)


def _whose(request: Any) -> Visitor | None:
    return None if history_key(request) is None else Visitor(request.user_id, getattr(request, "session_id", None))


def _identified(request: Any, user_id: str) -> Any:
    return request.model_copy(update={"user_id": user_id})


def _until(features: FeatureValues) -> Mapping[str, int]:
    found: Mapping[str, int] = features.get(UNTIL, {}).get(ALL, {})
    return found


def _is_known(schema: Schema, item_id: str) -> bool:
    return item_id in schema.index


EVENTS = EventUse(
    whose=_whose,
    identified=_identified,
    until=_until,
    until_keys={UNTIL: [ALL]},
    more=lambda request: {TIMES: history_keys(request)},
    merge=merge,
    is_known=_is_known,
)


def _ordered(events: Sequence[Event], user_id: str) -> Sequence[Event]:
    """The events in the order of `prepare`; they come in that of time and session."""
    moments = [(event.time_us, event.session_id or "") for event in events]
    if len(set(moments)) == len(moments):
        return events
    items = pa.array([event.item_id for event in events])
    times_us = np.array([event.time_us for event in events])
    keys = moment_order(hash_ids(pa.array([user_id])), hash_ids(items), times_us).tolist()
    places = sorted(range(len(events)), key=lambda place: (*moments[place], keys[place], events[place].item_id))
    return [events[place] for place in places]


def _without_repeats(events: Iterable[Event], stored: Sequence[Any], seconds: Sequence[int]) -> list[Event]:
    known = {(*_item_and_type(event), second) for event, second in zip(stored, seconds, strict=True)}
    kept = []
    for event in events:
        # A log without types has the item alone.
        item_id, second = event.item_id, _second(event)
        if (item_id, event.event_type, second) not in known and (item_id, None, second) not in known:
            kept.append(event)
    return kept


def _by_time(stored: list[Any], seconds: Sequence[int], events: Sequence[Event]) -> list[Any]:
    if not events or not seconds or _second(events[0]) >= seconds[-1]:  # as is usual
        return [*stored, *map(_in_history, events)]
    merged, begin = [], 0
    for event in events:
        end = max(begin, bisect_right(seconds, _second(event)))
        merged += [*stored[begin:end], _in_history(event)]
        begin = end
    return [*merged, *stored[begin:]]


def _second(event: Event) -> int:
    return event.time_us // 1_000_000


def _in_history(event: Event) -> list[str | None]:
    return [event.item_id, event.event_type]


def _item_and_type(event: Any) -> tuple[str, str | None]:
    return (event, None) if isinstance(event, str) else (event[0], event[1])
