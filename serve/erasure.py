"""Erasure at a replica: `DELETE /v1/users/{id}`, and erased users in requests and events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from models.erasure.erased import checked_id
from models.erasure.receipts import Trace
from models.erasure.request import erase_at_once
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.events.event import SESSION, Event
from serve.problems import RequestRefused, error_responses, log, path_id

REFUSED = "the user is erased; events count again after a new consent (shopkeeper erase --lift)"
"""The reason of a refused event."""


class ErasureAnswer(BaseModel):
    """What became of a user: unknown from now on at every replica."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    receipt_id: str
    """Name of the receipt, which the store keeps."""
    status: str
    """erased, or pending where data are left that `shopkeeper erase --pending` or the next prepare deletes."""
    traces: list[Trace]
    """What was deleted now, and what is pending."""


class Erasure:
    """The erased users of the store that a replica serves."""

    def __init__(self) -> None:
        self._events: str | None = None
        self._tombstones: Tombstones | None = None
        # One thread: SQLite allows one writer.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="erase")

    @property
    def tombstones(self) -> Tombstones | None:
        """The tombstones, or None for a deployment of an earlier release, which knows none."""
        return self._tombstones

    def use(self, path: Path | None, *, events: str | None, must_open: bool = True) -> Tombstones | None:
        """Use the tombstones at a path, and the event store at an address.

        Raises TombstonesUnreadable; unless they must open: then every user is unknown until they can be read.
        """
        self._events = events
        if path != (self._tombstones.path if self._tombstones else None):
            found = Tombstones(path) if path else None
            if found is not None and (fault := _fault_of(found)) is not None:  # or the first request would notice
                if must_open:
                    raise fault
                log.error("users are answered as unknown: %s", fault)
            self._tombstones = found
        return self._tombstones

    @property
    def fault(self) -> str | None:
        """Why erased users cannot be told from others now, so that all are answered as unknown; None if they can."""
        fault = None if self._tombstones is None else _fault_of(self._tombstones)
        return None if fault is None else str(fault)

    def are_refused(self, events: Sequence[Event]) -> list[bool]:
        """Whether each event is of an erased user or session; raises RequestRefused if that cannot be known."""
        if self._tombstones is None:
            return [False for _ in events]
        try:
            users = self._tombstones.erased_of([event.user_id for event in events])
            sessions = self._tombstones.erased_of(
                [event.session_id and f"{SESSION}{event.session_id}" for event in events]
            )
        except TombstonesUnreadable as error:
            raise RequestRefused(f"no event was stored: {error}", status=503) from error
        return [user or session for user, session in zip(users, sessions, strict=True)]

    def is_silent(self, user_id: str | None) -> bool:
        """Whether an answer may know nothing of a user; also where that cannot be known."""
        try:
            return self._tombstones is not None and self._tombstones.any_of((user_id,))
        except TombstonesUnreadable as error:
            log.error("users are answered as unknown: %s", error)
            return True

    async def erase(self, given: str) -> ErasureAnswer:
        """Erase a user; raises RequestRefused: 422 for an id that nobody can have, 503 if it cannot be recorded."""
        tombstones = self._tombstones
        if tombstones is None:
            raise RequestRefused("this deployment knows no erasure; deploy the family again", status=503)
        try:
            user_id = checked_id(given)
        except ValueError as error:
            raise RequestRefused(str(error)) from None

        def erase() -> ErasureAnswer:
            (receipt,) = erase_at_once(tombstones.path.parent, [user_id], events=self._events, tombstones=tombstones)
            return ErasureAnswer(receipt_id=receipt.receipt_id, status=receipt.status, traces=receipt.traces)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, erase)
        except OSError as error:
            log.error("a user was not erased: %s", error)
            raise RequestRefused(f"not erased: {error}; send it again", status=503) from error


def _fault_of(tombstones: Tombstones) -> TombstonesUnreadable | None:
    try:
        _ = tombstones.last_seq
    except TombstonesUnreadable as error:
        return error
    return None


def add_erasure(app: FastAPI, erasure: Erasure, *, route_prefix: str) -> None:
    """Add the route that erases a user: 200 where nothing is left in the store, 202 where data are pending."""
    prefix = "" if route_prefix.rstrip("/") else "/v1"

    @app.delete(
        f"{prefix}/users/{{user_id:path}}",
        summary="Erase a user, who is unknown when this is answered",
        response_model=ErasureAnswer,
        responses={**error_responses(503), 202: {"model": ErasureAnswer, "description": "Data are pending"}},
    )
    async def delete(user_id: str) -> Response:
        answer = await erasure.erase(path_id(user_id))
        return Response(
            answer.model_dump_json(exclude_none=True),
            status_code=200 if answer.status == "erased" else 202,
            media_type="application/json",
        )
