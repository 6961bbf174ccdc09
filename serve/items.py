"""The HTTP routes of live items: put, withdraw and look up items between two trainings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp, Receive, Scope, Send

from models.items.item import Kind, Put
from models.items.request import MAX_ITEMS, BodyRefused, ItemRefused, check_id, check_item, kinds_of_new, read_body
from models.items.sqlite import ItemsBusy
from serve import json_bodies
from serve.live_items import PREPARED_ONLY, LiveCatalogue
from serve.problems import (
    RequestRefused,
    all_rejected,
    error_responses,
    log,
    path_id,
)
from serve.service import Service

PREPARED_HEADER = b"shopkeeper-prepared-only"
"""With it a request is answered without live items: `deploy` compares the golden answer, which knows none."""
State = Literal["known", "new", "withdrawn", "unknown"]
T = TypeVar("T")
Given = TypeVar("Given")
EXAMPLE: Any = [{"item_id": "lamp-7", "brand": "Alder", "price": 19.5, "in_stock": True}]


class ItemResult(BaseModel):
    """What became of one item of a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    item_id: str | None = None
    """Absent for a rejected item without a usable id."""
    outcome: Literal["accepted", "rejected"]
    item_known: bool | None = None
    """Whether the model knows the item; if not, it is recommended by its attributes until the next training."""
    similar_to: str | None = None
    """For an item that the model does not know, the known one whose attributes are most like its own."""
    note: str | None = None
    """What the shop should know of an accepted item."""
    reason: str | None = None
    """Why it was rejected."""


class ItemsAnswer(BaseModel):
    """How many items were stored, and what became of each, in the order sent."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    accepted: int
    rejected: int
    version: int | None = None
    """Version of the store with these items: replicas that report it, or a larger one, show them."""
    results: list[ItemResult]


class ItemAnswer(BaseModel):
    """One item of the live catalogue."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    item_id: str
    state: State
    """known: the model knows it; new: it was put and the model does not know it; unknown: neither."""
    similar_to: str | None = None
    """For a new item, the known one whose attributes are most like its own."""
    note: str | None = None
    """What the shop should know of it."""
    version: int
    """Version of the store that this replica shows."""


class PreparedOnly:
    """ASGI middleware that answers requests with PREPARED_HEADER without live items."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(name == PREPARED_HEADER for name, _ in scope["headers"]):
            token = PREPARED_ONLY.set(True)
            try:
                await self.app(scope, receive, send)
            finally:
                PREPARED_ONLY.reset(token)
            return
        await self.app(scope, receive, send)


def items_path(models_path: str) -> str:
    """The path of live items, beside that of the model in use."""
    return f"{models_path.rpartition('/')[0]}/items"


def add_items(app: FastAPI, service: Service, *, path: str) -> None:
    """Add the routes at `path`, such as /v1/items.

    A put answers 200 also where some items are rejected, and 422 where all are, so that a client that looks at nothing
    but the status notices.
    """

    @app.put(path, summary="Add items, or change their attributes", response_model=ItemsAnswer, **_documented())
    async def put(request: Request) -> Response:
        json_bodies.check_type(request)
        answer = await _in_thread(_put, _live(service), await _parsed(service, await request.body()))
        if answer.results and not answer.accepted:
            return all_rejected(answer, answer.results, noun="item")
        return _json(answer)

    @app.delete(f"{path}/{{item_id:path}}", summary="Withdraw an item", **_answers_item())
    async def withdraw(item_id: str) -> Response:
        return _json(await _in_thread(_withdraw, _live(service), path_id(item_id)))

    @app.get(f"{path}/{{item_id:path}}", summary="What an item is to the model", **_answers_item())
    async def look_up(item_id: str) -> Response:
        return _json(await _in_thread(_look_up, _live(service), path_id(item_id)))


def _documented() -> dict[str, Any]:
    item = {"type": "object", "required": ["item_id"], "properties": {"item_id": {"type": "string"}}}
    items = {"type": "array", "items": item, "maxItems": MAX_ITEMS}
    new = {"type": "array", "items": {"type": "string"}, "description": "Attributes that the item table does not have"}
    both = {"type": "object", "required": ["items"], "properties": {"items": items, "new_attributes": new}}
    content = {"application/json": {"schema": {"anyOf": [item, items, both]}, "example": EXAMPLE}}
    body = {"requestBody": {"required": True, "content": content}}
    return {"responses": error_responses(415, 501), "openapi_extra": body}


def _answers_item() -> dict[str, Any]:
    return {"response_model": ItemAnswer, "responses": error_responses(501)}


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


async def _parsed(service: Service, content: bytes) -> Any:
    """The JSON value of a body, of a large one off the event loop; raises RequestValidationError."""
    parse = partial(json_bodies.parse, content)
    return await service.answers.work(parse) if len(content) > json_bodies.LARGE_BYTES else parse()


def _live(service: Service) -> LiveCatalogue:
    loaded = service.current
    if loaded is None:
        raise RequestRefused("no model is loaded yet; try again later", status=503)
    if loaded.live is None:
        raise RequestRefused(
            "this deployment keeps no live items: they are in an SQLite file, which several hosts cannot share, and "
            "deployments before release 0.4.0 have none; deploy again on one host, without --address",
            status=501,
        )
    return loaded.live


async def _in_thread(answer: Callable[[LiveCatalogue, Given], T], live: LiveCatalogue, given: Given) -> T:
    """Answer off the event loop, as writing waits for the disk."""
    try:
        return await asyncio.to_thread(answer, live, given)
    except (BodyRefused, ItemRefused) as error:
        raise RequestRefused(str(error)) from error
    except ItemsBusy as error:
        raise RequestRefused("other items are being written; try again later", status=503) from error
    except OSError as error:
        log.error("live items cannot be stored: %s", error)  # the path of the store is not for clients
        detail = "live items cannot be stored; `degraded` of the model information says why"
        raise RequestRefused(detail, status=503) from error


def _put(live: LiveCatalogue, sent: Any) -> ItemsAnswer:
    if not live.has_table:
        raise RequestRefused("the item table cannot be read, so attributes cannot be checked; try later", status=503)
    body = read_body(sent)
    known = live.view.known_attributes
    new = kinds_of_new(body, known)
    checked = [_checked(item, known, new) for item in body.items]
    accepted = [each for each in checked if isinstance(each, Put)]
    version = live.put(accepted, kinds=new) if accepted else None
    results = [_accepted(live, each) if isinstance(each, Put) else each for each in checked]
    return ItemsAnswer(accepted=len(accepted), rejected=len(checked) - len(accepted), version=version, results=results)


def _checked(item: Any, known: Mapping[str, Kind], new: Mapping[str, Kind]) -> Put | ItemResult:
    try:
        return check_item(item, known=known, new=new)
    except ItemRefused as error:
        return ItemResult(item_id=_usable_id(item), outcome="rejected", reason=str(error))


def _accepted(live: LiveCatalogue, item: Put) -> ItemResult:
    described = live.view.describe(item.item_id)
    return ItemResult(
        item_id=item.item_id,
        outcome="accepted",
        item_known=described.state == "known",
        similar_to=described.similar_to,
        note=described.note,
    )


def _usable_id(item: Any) -> str | None:
    try:
        return check_id(item.get("item_id")) if isinstance(item, dict) else None
    except ItemRefused:
        return None


def _withdraw(live: LiveCatalogue, item_id: str) -> ItemAnswer:
    checked = check_id(item_id)
    live.withdraw(checked)
    return _look_up(live, checked)


def _look_up(live: LiveCatalogue, item_id: str) -> ItemAnswer:
    checked = check_id(item_id)
    described = live.view.describe(checked)
    return ItemAnswer(
        item_id=checked,
        state=described.state,
        similar_to=described.similar_to,
        note=described.note,
        version=live.info().version,
    )
