"""Events as a shop sends them: each is checked by itself, by the rules of `prepare`; one bad event refuses no other."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError

from models.events.event import SESSION, Event
from models.raw.ids import MAX_ID_CHARACTERS, MISSING_WORDS, Id, has_control_characters
from models.raw.times import EARLIEST_S

MAX_REQUEST_EVENTS = 1000
MAX_AHEAD_S = 600.0
"""How far a clock may be ahead of ours."""

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?")
_JSON = re.compile(r'(\{\s*".*\}|\[\s*["{].*\])')


class EventsRefused(ValueError):
    """A body that is not a list of events; the message is for the client."""


class EventRefused(ValueError):
    """An event that is not accepted; the message is for the client."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field


def _usable(text: str) -> str:
    """An id that `prepare` would not reject; raises ValueError."""
    if text.isascii() and text.isalnum() and text.lower() not in MISSING_WORDS:
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not Unicode text; send it without lone surrogates") from None
    if text.lower() in MISSING_WORDS:
        raise ValueError(f"{text!r} stands for a missing value; leave the field out")
    if has_control_characters(text):
        raise ValueError("has control characters; send it without them")
    if _JSON.fullmatch(text):
        raise ValueError("is an object or a list as text; send the id alone")
    return text


UsableId = Annotated[Id, AfterValidator(_usable)]


class SentEvent(BaseModel):
    """What a user or an anonymous session did with an item; at least one of user_id and session_id is needed."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {"user_id": "17850", "item_id": "85123A", "event_type": "view"},
                {
                    "event_id": "order-581-2",
                    "user_id": "17850",
                    "session_id": "s-93",
                    "item_id": "85123A",
                    "event_type": "purchase",
                    "timestamp": "2026-05-01T10:00:00Z",
                    "price": 2.55,
                    "quantity": 6,
                    "recommendation_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
                },
            ]
        },
    )

    event_id: UsableId | None = None
    """An id of the shop, by which a repeated event is recognised; made by the server if absent."""
    user_id: UsableId | None = None
    session_id: UsableId | None = None
    """The visit: its events without a user belong to the user who logs in, which is an event with both ids."""
    item_id: UsableId
    event_type: str | None = Field(default=None, max_length=MAX_ID_CHARACTERS)
    """Such as view, addtocart or purchase; its case is ignored."""
    timestamp: StrictStr | StrictFloat | StrictInt | None = None
    """When it happened: RFC 3339 with a zone, or epoch seconds; now if absent."""
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=True)
    quantity: float | None = Field(default=None, gt=0, allow_inf_nan=False, strict=True)
    recommendation_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID_CHARACTERS)
    """The `recommendation_id` of the answer that led to the event."""


def read_events(body: Any) -> Sequence[Any]:
    """The events of a JSON value, not yet checked: one event, a list, or {"events": [...]}; raises EventsRefused."""
    if isinstance(body, dict) and "events" in body:
        if unknown := sorted(set(body) - {"events"}):
            raise EventsRefused(f"the body has {unknown[0]!r} beside events; send only events")
        body = body["events"]
        if not isinstance(body, list):
            raise EventsRefused(f"events is {_kind(body)}; send a list of events")
    events = body if isinstance(body, list) else [body]
    if not events:
        raise EventsRefused("the body has no events; send at least one")
    if len(events) > MAX_REQUEST_EVENTS:
        raise EventsRefused(f"the body has {len(events):,} events; send at most {MAX_REQUEST_EVENTS:,} at a time")
    return events


def check_event(sent: Any, *, now_s: float) -> Event:
    """The event as it is stored; raises EventRefused. `now_s` is the time of an event that has none."""
    if not isinstance(sent, dict):
        raise EventRefused("", f"an event is an object, not {_kind(sent)}")
    try:
        found = SentEvent.model_validate(sent)
    except ValidationError as error:
        raise _refused(error, sent) from None
    if found.user_id is None and found.session_id is None:
        raise EventRefused("user_id", "is missing, and so is session_id; send at least one of them")
    if found.user_id is not None and found.user_id.startswith(SESSION):
        raise EventRefused("user_id", f"{found.user_id!r} begins with {SESSION!r}; send the rest as session_id")
    if found.session_id is not None and len(found.session_id) > MAX_ID_CHARACTERS - len(SESSION):
        raise EventRefused("session_id", f"has more than {MAX_ID_CHARACTERS - len(SESSION)} characters")
    event_type = _type_of(found.event_type)
    timestamp_s = now_s if found.timestamp is None else _time_s(found.timestamp, now_s)
    event = Event(
        found.event_id or uuid.uuid4().hex,
        found.user_id,
        found.session_id,
        found.item_id,
        event_type,
        timestamp_s,
        None if found.recommendation_id is None else _text("recommendation_id", found.recommendation_id),
        found.price,
        found.quantity,
    )
    if found.event_id is None and found.timestamp is not None:
        return _identified(event)
    return event


def _identified(event: Event) -> Event:
    """The event with an id that its content gives: sent again it counts once, as a repeated row does in `prepare`."""
    content: list[str | float | None] = [
        event.user_id,
        event.session_id,
        event.item_id,
        event.event_type,
        event.time_us,
    ]
    content += [event.price, event.quantity]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    return replace(event, event_id=digest)


def _type_of(text: str | None) -> str | None:
    """An event type in the form of `prepare`."""
    name = "" if text is None else _text("event_type", text).strip().lower()
    return None if name in MISSING_WORDS else name


def _text(field: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EventRefused(field, "is not Unicode text; send it without lone surrogates") from None
    if has_control_characters(text):
        raise EventRefused(field, "has control characters; send it without them")
    return text


def _time_s(sent: str | float, now_s: float) -> float:
    if isinstance(sent, str):
        if not (found := _RFC_3339.fullmatch(sent)):
            raise EventRefused("timestamp", f"{_shown(sent)} is not RFC 3339, such as 2026-05-01T10:00:00Z")
        if not found.group(2):
            raise EventRefused("timestamp", f"{sent!r} has no zone; add Z or an offset such as +01:00")
        try:
            time_s = datetime.fromisoformat(sent.upper()).timestamp()
        except (ValueError, OverflowError):
            raise EventRefused("timestamp", f"{sent!r} is no time that exists") from None
    else:
        try:
            time_s = float(sent)
        except OverflowError:
            time_s = math.inf
    if not math.isfinite(time_s) or time_s < EARLIEST_S:
        raise EventRefused("timestamp", f"{_shown(sent)} is before 1990 or no time; send RFC 3339 or epoch seconds")
    if time_s >= EARLIEST_S * 1000:
        raise EventRefused("timestamp", f"{_shown(sent)} looks like milliseconds; send epoch seconds")
    if time_s > now_s + MAX_AHEAD_S:
        ahead = f"{time_s - now_s:,.0f} s after the server's time; at most {MAX_AHEAD_S:g} are accepted"
        raise EventRefused("timestamp", f"{_shown(sent)} is {ahead}: check the clock and the zone")
    return time_s


def _refused(error: ValidationError, sent: dict[str, Any]) -> EventRefused:
    mistake = error.errors(include_url=False, include_input=False)[0]
    field = str(mistake["loc"][0])
    if field == "timestamp":
        return EventRefused(field, f"{_kind(sent[field])} is no time; send RFC 3339 text or epoch seconds")
    if mistake["type"] == "extra_forbidden":
        return EventRefused(_shown(field), f"is no field of an event; there are {', '.join(SentEvent.model_fields)}")
    return EventRefused(field, mistake["msg"].removeprefix("Value error, "))


def _shown(value: Any) -> str:
    """A value of a request in a message: short, and possible to send."""
    return repr(value)[:80].encode(errors="backslashreplace").decode()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
