"""Events at a replica: takes them durably, and merges those that prepared data lack into the features of requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from models.errors import EventsUnavailable, FeatureStoreUnreadable
from models.events.event import SESSION, Event
from models.events.hook import EventUse, Visitor, events_path
from models.events.request import (
    MAX_REQUEST_EVENTS,
    EventRefused,
    EventsRefused,
    SentEvent,
    check_event,
    read_events,
)
from models.events.store import EventStore, open_events
from models.family import Features
from models.time_limit import Overdue, TimedThreads
from serve import json_bodies
from serve.erasure import REFUSED, Erasure
from serve.problems import (
    RequestRefused,
    all_rejected,
    error_responses,
    log,
)
from serve.stored_features import StoredFeatures

NUM_APPENDERS = 32
"""Requests whose events wait for one commit, per replica."""
NUM_READERS = 4
LOOK_UP_TIMEOUT_S = 2.0
"""How long an answer waits for a store before it does without new events."""
PAUSE_S = 1.0
"""After a failed look-up, answers do without new events for this long, so that a broken store does not slow them."""
ORDER_S = 1e-6
"""Between events of a request that have no time of their own: they are in order."""

T = TypeVar("T")
Outcome = Literal["accepted", "duplicate", "rejected"]
EventObserver = Callable[[str, int], None]
"""Called with (outcome, number of events): those of Outcome, and `unavailable` for each failure of the store."""


class EventResult(BaseModel):
    """What became of one event."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    event_id: str | None = None
    """The id sent, or the one that the server has made; absent for a rejected event without a usable one."""
    outcome: Outcome
    """accepted: stored; duplicate: an event with this id is stored already; rejected: not stored, see `reason`."""
    item_known: bool | None = None
    """Whether the model knows the item, or it is a live item like one that it knows; if not, the event counts after the
    next training."""
    reason: str | None = None
    """Why it was rejected."""


class EventsAnswer(BaseModel):
    """How many events were stored, and what became of each, in the order sent."""

    accepted: int
    duplicate: int
    rejected: int
    results: list[EventResult]


class Events:
    """The events of a family at one replica, with the store at an address, which it opens when it is first needed."""

    def __init__(self, use: EventUse, *, erasure: Erasure, observe: EventObserver | None = None) -> None:
        self._use = use
        self._erasure = erasure
        self._observe = observe or (lambda outcome, count: None)
        self._address: str | None = None
        self._store: EventStore | None = None
        self._opening = threading.Lock()
        # Threads wait while a commit runs, and what waits goes into the next one.
        self._appenders = ThreadPoolExecutor(NUM_APPENDERS, thread_name_prefix="append")
        self._readers = TimedThreads(NUM_READERS)
        self._pause_until_s = 0.0

    def use(self, address: str | None) -> None:
        """Use the store at an address from now on, or none."""
        with self._opening:
            if address == self._address:
                return
            replaced, self._store, self._address = self._store, None, address
            self._pause_until_s = 0.0
        if replaced is not None:
            self._appenders.submit(replaced.close)

    async def take(self, content: bytes, knows: Callable[[str], bool]) -> EventsAnswer:
        """Store the events of a body; when it returns they are durable. `knows` says whether an item is known.

        Raises RequestValidationError for a body that is not JSON, RequestRefused: 422 for one that is not a list of
        events, 503 if they could not be stored.
        """
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._appenders, self._take, content, knows)
        except EventsRefused as error:
            raise RequestRefused(str(error)) from None
        except EventsUnavailable as error:
            log.error("events were not stored: %s", error)
            self._observe("unavailable", 1)
            raise RequestRefused(
                f"no event was stored: {error}", status=503, retry_after_s=error.retry_after_s
            ) from error
        for outcome in ("accepted", "duplicate", "rejected"):
            if count := getattr(answer, outcome):
                self._observe(outcome, count)
        return answer

    async def new_for(self, request: Any, stored: StoredFeatures) -> tuple[Any, Sequence[Event]]:
        """The events that the features of a request lack, and the request, with the user whom its session is.

        None where the store does not answer. On the event loop.
        """
        visitor = self._use.whose(request)
        if visitor is None or self._address is None or time.monotonic() < self._pause_until_s:
            return request, ()
        try:
            until = self._use.until(stored.read_more(self._use.until_keys, on_loop=True))
        except FeatureStoreUnreadable:  # so is the history, which is reported
            return request, ()
        owner, events = await self._look_up(visitor, until)
        return (request if owner is None else self._use.identified(request, owner)), events

    def merged(
        self, request: Any, values: Features, events: Sequence[Event], stored: StoredFeatures, *, on_loop: bool
    ) -> Features:
        """The features of a request with events that they lack; raises FeatureStoreUnreadable."""
        more = stored.read_more(self._use.more(request), on_loop=on_loop)
        return self._use.merge(request, {**values, **more}, events)

    async def _look_up(self, visitor: Visitor, until: Mapping[str, int]) -> tuple[str | None, Sequence[Event]]:
        """The user whom a session alone belongs to, and the visitor's events; in a thread, as disks may be slow."""

        def look_up() -> tuple[str | None, Sequence[Event]]:
            store, owner, (user_id, session_id) = self._opened(), None, visitor
            if user_id is None and session_id is not None:
                user_id = owner = store.owner(session_id)
            if self._erasure.is_silent(f"{SESSION}{session_id}" if user_id is None else user_id):
                return None, ()
            after_seq = until.get(store.store_id, 0)
            return owner, store.of(user_id=user_id, session_id=session_id, after_seq=after_seq)

        try:
            return await self._readers.call_async(look_up, timeout_s=LOOK_UP_TIMEOUT_S)
        except UnicodeEncodeError:  # nobody has such an id
            return None, ()
        except (EventsUnavailable, Overdue) as error:
            log.error("answers do without new events for %g s: %s", PAUSE_S, error)
            self._pause_until_s = time.monotonic() + PAUSE_S
            self._observe("unavailable", 1)
            return None, ()

    def _opened(self) -> EventStore:
        with self._opening:
            if self._address is None:
                raise EventsUnavailable("this deployment has no event store; deploy the family again")
            if self._store is None:
                # Not created here: a store that is gone is an error, and an empty one would hide it.
                self._store = open_events(self._address, create=False)
            return self._store

    def _take(self, content: bytes, knows: Callable[[str], bool]) -> EventsAnswer:
        sent = read_events(json_bodies.parse(content))
        store, now_s = self._opened(), time.time()
        results, events, places = [], [], []
        for place, each in enumerate(sent):
            try:
                events.append(check_event(each, now_s=now_s + place * ORDER_S))
            except EventRefused as refused:
                results.append(EventResult(event_id=_id_of(each), outcome="rejected", reason=str(refused)))
            else:
                known = knows(events[-1].item_id)
                results.append(EventResult(event_id=events[-1].event_id, outcome="accepted", item_known=known))
                places.append(place)
        events, places = self._without_erased(events, places, results)
        for place, is_new in zip(places, store.append(events), strict=True):
            if not is_new:
                results[place].outcome = "duplicate"
        self._erase_late(store, events, places, results)
        counts = {name: sum(each.outcome == name for each in results) for name in ("accepted", "duplicate", "rejected")}
        return EventsAnswer(**counts, results=results)

    def _without_erased(
        self, events: list[Event], places: list[int], results: list[EventResult]
    ) -> tuple[list[Event], list[int]]:
        """The events but those of erased users, which are rejected, and their places in the results."""
        is_refused = self._erasure.are_refused(events)
        for place, refused in zip(places, is_refused, strict=True):
            if refused:
                results[place] = EventResult(event_id=results[place].event_id, outcome="rejected", reason=REFUSED)
        kept = [index for index, refused in enumerate(is_refused) if not refused]
        return [events[index] for index in kept], [places[index] for index in kept]

    def _erase_late(
        self, store: EventStore, events: list[Event], places: list[int], results: list[EventResult]
    ) -> None:
        """Delete what was stored of users who were erased meanwhile: their erasure may have come before the events."""
        kept, _ = self._without_erased(events, places, results)
        if len(kept) < len(events):
            for event in {each.event_id: each for each in events if each not in kept}.values():
                store.erase(event.visitor_id)


def add_events(app: FastAPI, events: Events | None, *, route_prefix: str, knows: Callable[[str], bool]) -> None:
    """Add the route that takes events, if there are any; `knows` says whether the model in use knows an item.

    It raises RequestRefused without a model. 200 also where some events are rejected: 207 is WebDAV's, and clients take
    it for a full success all the same. 422 where all are, so that a client that looks at the status alone notices.
    """
    if events is None:
        return
    path = events_path(route_prefix).removeprefix(route_prefix.rstrip("/"))
    described: Any = {"requestBody": {"required": True, "content": {"application/json": {"schema": _body_schema()}}}}

    @app.post(
        path,
        summary="Send events, which change the next answers; they are durable when this is answered",
        response_model=EventsAnswer,
        responses=error_responses(415),
        openapi_extra=described,
    )
    async def post(request: Request) -> Response:
        json_bodies.check_type(request)
        answer = await events.take(await request.body(), knows)
        if answer.rejected == len(answer.results):
            return all_rejected(answer, answer.results, noun="event")
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _body_schema() -> dict[str, Any]:
    """JSON Schema of the body: an event, a list, or an object with a list."""
    event = SentEvent.model_json_schema()
    many = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_REQUEST_EVENTS}
    wrapped = {"type": "object", "properties": {"events": many}, "required": ["events"], "additionalProperties": False}
    return {"anyOf": [event, many, wrapped], "examples": event.pop("examples")}


def _id_of(sent: Any) -> str | None:
    """The event_id of a rejected event, if it can be sent back."""
    found = sent.get("event_id") if isinstance(sent, dict) else None
    return found if isinstance(found, str) and len(found) <= 256 and found.isascii() else None
