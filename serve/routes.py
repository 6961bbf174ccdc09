"""The HTTP routes of a family: JSON, files, WebSockets, model info, health and OpenAPI; independent of Ray."""

from __future__ import annotations

import json
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from models.family import AnyEndpoint, AnyStream, Media, RawBody
from serve.access.gate import Gate
from serve.metrics_page import add_metrics_page
from serve.problems import MAX_BODY_BYTES, REQUEST_TIMEOUT_S, error_responses, install, problem
from serve.service import ModelInfo, Service

JSON = "application/json"
Respond = Callable[[BaseModel], Awaitable[Response]]
"""A valid request of an endpoint -> its HTTP response."""


class _Application(FastAPI):
    """An application whose OpenAPI lists the paths that clients send, though Serve mounts it at a prefix."""

    prefix = ""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        return {**described, "paths": {f"{self.prefix}{path}": each for path, each in described["paths"].items()}}


def make_app(service: Service, *, timeout_s: float = REQUEST_TIMEOUT_S) -> FastAPI:
    """The HTTP application of a service: the family's endpoints and streams, model info, health and OpenAPI.

    Requests time out after `timeout_s` plus the longest `answer_timeout_s` of the family's endpoints.
    """
    family = service.family
    prefix = family.route_prefix.rstrip("/")
    streams = "".join(f"\n\nWebSocket {stream.path}: {stream.summary}" for stream in family.streams)
    app = _Application(
        title=f"Shopkeeper: {family.name}", version="1", description=streams.strip(), root_path_in_servers=False
    )
    app.prefix = prefix
    raws = [endpoint.raw for endpoint in family.endpoints if endpoint.raw is not None]
    install(
        app,
        max_body_bytes=max([MAX_BODY_BYTES, *(raw.max_bytes for raw in raws)]),
        timeout_s=timeout_s + max(endpoint.answer_timeout_s or 0.0 for endpoint in family.endpoints),
    )
    for endpoint in family.endpoints:
        _add_endpoint(app, service, endpoint, path=endpoint.path.removeprefix(prefix))
    for stream in family.streams:
        app.add_api_websocket_route(stream.path.removeprefix(prefix), _connection(service, stream))

    @app.get(family.models_path.removeprefix(prefix), summary="The model in use")
    async def models() -> ModelInfo:
        return service.info()

    @app.get("/healthz", summary="Whether a model is loaded")
    async def healthz() -> Response:
        if not service.is_ready:
            return problem(503, "no model is loaded yet")
        return Response('{"status":"ok"}', media_type="application/json")

    add_metrics_page(app, service)
    _add_gate(app, service)
    return app


def _add_gate(app: FastAPI, service: Service) -> None:
    """Added last, it comes before all other middleware."""
    app.add_middleware(
        Gate,
        family=service.family,
        routes=app.router.routes,
        guard=service.guard,
        metrics=service.metrics,
        request_log=service.request_log,
    )


def _add_endpoint(app: FastAPI, service: Service, endpoint: AnyEndpoint, *, path: str) -> None:
    async def respond(request: BaseModel) -> Response:
        return _response(await service.answer(endpoint, request))

    statuses = error_responses(*([409] if endpoint.update else []), *([415] if endpoint.raw else []))
    is_file = issubclass(endpoint.Response, Media)
    if is_file:
        content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _media_types(endpoint.Response)}
        statuses[200] = {"description": "The file", "content": content}
    add = app.post(
        path,
        summary=endpoint.summary,
        response_model=None if is_file else endpoint.Response,
        response_class=Response if is_file else JSONResponse,
        responses=statuses,
        openapi_extra=_file_openapi(endpoint, endpoint.raw) if endpoint.raw else None,
    )
    add(_file_route(endpoint, endpoint.raw, respond) if endpoint.raw else _json_route(endpoint, respond))


def _json_route(endpoint: AnyEndpoint, respond: Respond) -> Callable[[Any], Awaitable[Response]]:
    async def post(request: Any) -> Response:
        return await respond(request)

    # FastAPI reads the body's type from the annotation, which differs by endpoint.
    post.__annotations__["request"] = endpoint.Request
    return post


def _connection(service: Service, stream: AnyStream) -> Callable[[WebSocket], Awaitable[None]]:
    async def connection(socket: WebSocket) -> None:
        await service.streams.serve(stream, service.current, socket)

    return connection


def _file_route(endpoint: AnyEndpoint, raw: RawBody, respond: Respond) -> Callable[[Request], Awaitable[Response]]:
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
        return await respond(_validated(endpoint, fields))

    return post


def _file_openapi(endpoint: AnyEndpoint, raw: RawBody) -> dict[str, Any]:
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


def _response(answer: BaseModel) -> Response:
    """The HTTP response of an answer: a file with its media type, anything else as JSON."""
    if isinstance(answer, Media):
        return Response(answer.content, headers={"Content-Type": answer.media_type})
    return Response(answer.model_dump_json(), media_type=JSON)


def _media_types(response: type[Media]) -> tuple[str, ...]:
    """The media types of a file answer for OpenAPI: the literals of its class, or any type."""
    annotation = response.model_fields["media_type"].annotation
    if typing.get_origin(annotation) is Literal:
        return tuple(str(each) for each in typing.get_args(annotation))
    return ("*/*",)
