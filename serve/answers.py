"""Answers a request: reads its features, encodes, predicts, builds the response, writes features back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel

from models.ask import NO_FEATURES
from models.errors import FeatureStoreLocked, FeatureStoreUnreadable
from models.events.event import Event
from models.family import AnyEndpoint
from models.features import Change, Found, NotUnicode
from models.time_limit import Overdue, TimedThreads
from serve.batching import Batcher
from serve.events import Events
from serve.loaded_model import Loaded
from serve.problems import RequestRefused
from serve.stored_features import StoredFeatures

MAX_ATTEMPTS = 5
"""Attempts to answer a request whose features other replicas write concurrently, before it is rejected."""
NUM_LONG_ANSWERS = 4
"""Concurrent answers with a time limit, per replica."""
STORE_RETRY_AFTER_S = 5
"""When a client may ask again for what a broken feature store has."""

T = TypeVar("T")


class Answers:
    """Answers requests with a given model; one per replica."""

    def __init__(
        self,
        batcher: Batcher,
        *,
        events: Events | None = None,
        num_long_answers: int = NUM_LONG_ANSWERS,
        on_store_error: Callable[[], None] = lambda: None,
    ) -> None:
        self._batcher = batcher
        self._events = events
        self._on_store_error = on_store_error
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="work")
        """One thread, so that only one large request or file is decoded at a time, off the event loop."""
        # One thread, as SQLite allows one writer; off the event loop, as a write may wait for other replicas.
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        """The thread that writes to live feature stores."""
        self._long = TimedThreads(num_long_answers)
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Lock of each live feature and key that requests are writing."""

    async def answer(
        self, loaded: Loaded, endpoint: AnyEndpoint, request: BaseModel, *, is_large: bool = False
    ) -> BaseModel:
        """The response to one request; a large one, or one that many live items concern, is encoded off the event loop.

        Raises RequestRefused without having written anything: 422 if `encode` rejects it, a key or new value is not
        Unicode or there are too many keys, 504 if its `answer` times out, 503 if no thread is free for that or a
        feature store is broken, 409 if other replicas wrote its features at every attempt.
        """
        writes = _checked(loaded.features.live_keys, request) if endpoint.update else set()
        is_costly = loaded.live is not None and loaded.live.view.is_costly(request)
        is_large = is_large or is_costly or endpoint.raw is not None
        with loaded.features.in_use():
            async with self._turn(writes):
                return await self._attempt(loaded, endpoint, request, is_large=is_large)

    async def work(self, do: Callable[[], T]) -> T:
        """The result of what would hold up the event loop, in the one thread for that."""
        # With the context of the request, as it says whether live items count.
        return await asyncio.get_running_loop().run_in_executor(self.worker, copy_context().run, do)

    def close_when_unused(self, features: StoredFeatures) -> None:
        """Close the feature stores of a replaced model when its last request ends, in the threads that use them."""

        def close() -> None:
            self.worker.submit(features.close_readers)
            self.writer.submit(features.close_writer)

        features.when_unused(close)

    async def closed(self) -> None:
        """Wait for the reads, writes and closings that have been submitted."""
        running = asyncio.get_running_loop()
        await asyncio.gather(running.run_in_executor(self.worker, int), running.run_in_executor(self.writer, int))

    @asynccontextmanager
    async def _turn(self, keys: Set[tuple[str, str]]) -> AsyncIterator[None]:
        """Wait for earlier requests to this replica that write the same keys, all but one of which would lose a race.

        Keys are locked in order, so that two requests never wait for each other.
        """
        locks = [self._turns.setdefault(key, asyncio.Lock()) for key in sorted(keys)]
        async with AsyncExitStack() as held:
            for lock in locks:
                await held.enter_async_context(lock)
            yield

    async def _attempt(self, loaded: Loaded, endpoint: AnyEndpoint, request: BaseModel, *, is_large: bool) -> BaseModel:
        answerer = loaded.answerers[endpoint.path]
        for _ in range(MAX_ATTEMPTS):
            request, events = await self._new_events(loaded, request)
            encoded = None if is_large else self._encode(loaded, endpoint, request, events, is_small=True)
            if encoded is None:
                encoded = await self.work(partial(self._encode, loaded, endpoint, request, events))
            assert encoded is not None, "off the event loop any request is encoded"
            examples, found = encoded
            predictions = await self._batcher.submit_all(loaded.predicts[endpoint.path], examples)
            response = await self._answer(endpoint, partial(answerer.answer, request, predictions))
            if found is None:
                assert endpoint.fallback is not None, "others are refused"
                marked: BaseModel = endpoint.fallback(response)
                return marked
            changes = _changes(loaded, endpoint, request, predictions, found)
            if not changes or await self._write(loaded, changes):
                return response
        raise RequestRefused("other requests keep changing the features of this one; send it again", status=409)

    async def _new_events(self, loaded: Loaded, request: Any) -> tuple[Any, Sequence[Event]]:
        """The events that the features of a request lack, and the request, with the user whom its session is."""
        if self._events is None:
            return request, ()
        return await self._events.new_for(request, loaded.features)

    def _encode(
        self,
        loaded: Loaded,
        endpoint: AnyEndpoint,
        request: BaseModel,
        events: Sequence[Event],
        *,
        is_small: bool = False,
    ) -> tuple[list[Any], Found | None] | None:
        """The examples of a request with its features, without these in a fallback; None if it is not small."""
        found: Found | None
        try:
            if is_small:
                found = _checked(loaded.features.read_small, request)
                if found is None:
                    return None
            else:
                found = _checked(loaded.features.read, request)
        except FeatureStoreUnreadable as fault:
            self._on_store_error()
            if endpoint.fallback is None or endpoint.update or not loaded.features.can_be_missing(request):
                raise _broken(fault) from fault
            found = None
            events = ()
        if self._events is not None and events and found is not None:
            try:
                values = self._events.merged(request, found.values, events, loaded.features, on_loop=is_small)
            except FeatureStoreUnreadable:
                if is_small:
                    return None
                values = found.values
            found = replace(found, values=values)
        features = NO_FEATURES if found is None else found.values
        return _checked(partial(loaded.answerers[endpoint.path].encode, features=features), request), found

    async def _answer(self, endpoint: AnyEndpoint, answer: Callable[[], BaseModel]) -> BaseModel:
        timeout_s = endpoint.answer_timeout_s
        if timeout_s is None:
            return answer()
        if self._long.are_all_stuck:
            raise RequestRefused("too many answers have exceeded their time limit; try again later", status=503)
        try:
            return await self._long.call_async(answer, timeout_s=timeout_s)
        except Overdue as overdue:
            raise RequestRefused(str(overdue), status=504 if overdue.has_begun else 503) from None

    async def _write(self, loaded: Loaded, changes: Sequence[Change]) -> bool:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.writer, loaded.features.write, changes)
        except NotUnicode as error:
            raise RequestRefused(str(error)) from error
        except FeatureStoreUnreadable as fault:
            self._on_store_error()
            raise _broken(fault) from fault


def _checked(read: Callable[[Any], T], request: BaseModel) -> T:
    """What `read` returns for a request; raises RequestRefused for a ValueError, which is the request's fault."""
    try:
        return read(request)
    except ValueError as error:
        raise RequestRefused(str(error)) from error


def _broken(fault: FeatureStoreUnreadable) -> RequestRefused:
    # The path of the store is for the operator, not for clients.
    is_locked = isinstance(fault, FeatureStoreLocked)
    detail = (
        "the feature store is busy; try again later" if is_locked else "the feature store cannot be read; try later"
    )
    return RequestRefused(detail, status=503, retry_after_s=1 if is_locked else STORE_RETRY_AFTER_S)


def _changes(
    loaded: Loaded, endpoint: AnyEndpoint, request: BaseModel, predictions: Sequence[Any], found: Found
) -> list[Change]:
    """The features that the request writes, with the versions that it has read; nothing of erased users."""
    if endpoint.update is None:
        return []
    updated = endpoint.update(request, predictions, loaded.model.schema, found.values)
    changes = []
    for name, values in updated.items():
        for key, value in values.items():
            version = found.versions.get((name, key))
            if version is None and loaded.features.is_silent(name, key):
                continue
            assert version is not None, f"{endpoint.path} writes {name} {key!r} without having read it"
            changes.append(Change(name, key, value, version))
    return changes
