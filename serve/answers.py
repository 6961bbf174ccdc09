"""Answers a request: reads its features, encodes, predicts, builds the response, writes features back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from pydantic import BaseModel

from models.ask import Answerer
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


class Answers:
    """Answers requests with a given model; one per replica."""

    def __init__(
        self, batcher: Batcher, *, events: Events | None = None, num_long_answers: int = NUM_LONG_ANSWERS
    ) -> None:
        self._batcher = batcher
        self._events = events
        # One thread, so that only one large file is decoded at a time.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        # One thread, as SQLite allows one writer; off the event loop, as a write may wait for other replicas.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._long = TimedThreads(num_long_answers)
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Lock of each live feature and key that requests are writing."""

    async def answer(self, loaded: Loaded, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        """The response to one request.

        Raises RequestRefused without having written anything: 422 if `encode` rejects it or a key or new value is not
        Unicode, 504 if its `answer` times out, 503 if no thread is free for that, 409 if other replicas wrote its
        features at every attempt.
        """
        writes = loaded.features.live_keys(request) if endpoint.update else set()
        with loaded.features.in_use():
            async with self._turn(writes):
                return await self._attempt(loaded, endpoint, request)

    def close_when_unused(self, features: StoredFeatures) -> None:
        """Close the feature stores of a replaced model when its last request ends, in the thread that writes."""
        features.when_unused(lambda: self._writer.submit(features.close))

    async def closed(self) -> None:
        """Wait for the writes and closings that have been submitted."""
        await asyncio.get_running_loop().run_in_executor(self._writer, int)

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

    async def _attempt(self, loaded: Loaded, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        answerer = loaded.answerers[endpoint.path]
        for _ in range(MAX_ATTEMPTS):
            request, found = await self._read(loaded, request)
            examples = await self._encode(answerer, endpoint, request, found)
            predictions = await self._batcher.submit_all(loaded.predicts[endpoint.path], examples)
            response = await self._answer(endpoint, partial(answerer.answer, request, predictions))
            changes = _changes(loaded, endpoint, request, predictions, found)
            if not changes or await self._write(loaded, changes):
                return response
        raise RequestRefused("other requests keep changing the features of this one; send it again", status=409)

    async def _read(self, loaded: Loaded, request: BaseModel) -> tuple[Any, Found]:
        try:
            if self._events is None:
                return request, loaded.features.read(request)
            return await self._events.read(request, loaded.features)
        except NotUnicode as error:
            raise RequestRefused(str(error)) from error

    async def _encode(self, answerer: Answerer, endpoint: AnyEndpoint, request: BaseModel, found: Found) -> list[Any]:
        try:
            if endpoint.raw is None:
                return answerer.encode(request, found.values)
            running = asyncio.get_running_loop()
            return await running.run_in_executor(self._decoder, answerer.encode, request, found.values)
        except ValueError as error:
            raise RequestRefused(str(error)) from error

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
            return await asyncio.get_running_loop().run_in_executor(self._writer, loaded.features.write, changes)
        except NotUnicode as error:
            raise RequestRefused(str(error)) from error
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise RequestRefused("the feature store is busy; try again later", status=503) from error


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
