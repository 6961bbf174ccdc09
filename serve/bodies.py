"""Requests with a file: the file itself as the body, or JSON with the file in base64."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from models.family import AnyEndpoint, RawBody
from serve.answers import JSON


def raw_route(
    endpoint: AnyEndpoint, raw: RawBody, answer: Callable[[AnyEndpoint, BaseModel], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The route of an endpoint that accepts a file; 415 for a body of another media type."""

    async def post(request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == JSON:
            fields = await _read_json(request)
        elif kind in raw.media_types:
            fields = {**request.query_params, raw.field: await request.body()}
        else:
            wanted = ", ".join((*raw.media_types, JSON))
            raise HTTPException(415, f"the Content-Type is {kind or 'missing'!r}; send one of {wanted}")
        return await answer(endpoint, _validated(endpoint, fields))

    return post


def raw_openapi(endpoint: AnyEndpoint, raw: RawBody) -> dict[str, Any]:
    """The OpenAPI entries of such a route: the body in each media type, other fields as query parameters."""
    schema = endpoint.Request.model_json_schema()
    file = {"schema": {"type": "string", "format": "binary"}}
    others = {name: field for name, field in schema["properties"].items() if name != raw.field}
    return {
        "requestBody": {
            "required": True,
            "content": {**dict.fromkeys(raw.media_types, file), JSON: {"schema": schema}},
        },
        "parameters": [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
            for name, field in others.items()
        ],
    }


async def _read_json(request: Request) -> Any:
    body = await request.body()
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        # The same error as on FastAPI's own routes.
        mistake = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON", "ctx": {"error": error.msg}}
        raise RequestValidationError([mistake]) from None
    except (UnicodeDecodeError, RecursionError):
        raise HTTPException(400) from None


def _validated(endpoint: AnyEndpoint, fields: Any) -> BaseModel:
    try:
        request: BaseModel = endpoint.Request.model_validate(fields)
        return request
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in mistakes]) from None
