"""The HTTP routes of a family: JSON, files, WebSockets, model info, health and OpenAPI; independent of Ray."""

from __future__ import annotations

import typing
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from models.erasure.features import personal
from models.family import AnyEndpoint, AnyStream, Media, RawBody
from serve import json_bodies
from serve.access.gate import Gate
from serve.erasure import add_erasure
from serve.events import add_events
from serve.items import PreparedOnly, add_items, items_path
from serve.json_bodies import LARGE_BYTES, is_json, media_type
from serve.metrics_page import add_metrics_page
from serve.problems import BODY_TIMEOUT_S, MAX_BODY_BYTES, REQUEST_TIMEOUT_S, error_responses, install, problem
from serve.service import ModelInfo, Service

JSON = "application/json"
Handle = Callable[[Request], Awaitable[Response]]
DEGRADED = (
    "a store of the deployment cannot be read: `degraded` of the model information says which and why; "
    "`shopkeeper deploy` writes a feature store anew"
)


class _Application(FastAPI):
    """An application whose OpenAPI lists the paths that clients send, though Serve mounts it at a prefix."""

    prefix = ""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        return {**described, "paths": {f"{self.prefix}{path}": each for path, each in described["paths"].items()}}


def make_app(
    service: Service, *, timeout_s: float = REQUEST_TIMEOUT_S, body_timeout_s: float = BODY_TIMEOUT_S
) -> FastAPI:
    """The HTTP application of a service: the family's endpoints and streams, model info, health and OpenAPI.

    Requests time out after `timeout_s` plus the longest `answer_timeout_s` of the family's endpoints, and before that
    if their body has not arrived in `body_timeout_s`.
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
        body_timeout_s=body_timeout_s,
    )
    _add_routes(app, service, prefix=prefix)

    @app.get(family.models_path.removeprefix(prefix), summary="The model in use")
    async def models() -> ModelInfo:
        return service.info()

    @app.get("/healthz", summary="Whether a model is loaded")
    async def healthz() -> Response:
        if not service.is_ready:
            return problem(503, "no model is loaded yet")
        # 200 also then: a load balancer would take every replica away, as all of them have the same store.
        return JSONResponse({"status": "degraded", "detail": DEGRADED} if service.fault() else {"status": "ok"})

    add_metrics_page(app, service)
    _add_gate(app, service)
    return app


def _add_routes(app: FastAPI, service: Service, *, prefix: str) -> None:
    """Add the routes of the family: its endpoints and streams, and what all families with users share."""
    family = service.family
    for endpoint in family.endpoints:
        _add_endpoint(app, service, endpoint, path=endpoint.path.removeprefix(prefix))
    if personal(family) or family.erasure is not None:
        add_erasure(app, service.erasure, route_prefix=family.route_prefix)
    add_events(app, service.events, route_prefix=family.route_prefix, knows=service.knows)
    if family.items is not None:
        add_items(app, service, path=items_path(family.models_path).removeprefix(prefix))
        app.add_middleware(PreparedOnly)
    for stream in family.streams:
        app.add_api_websocket_route(stream.path.removeprefix(prefix), _connection(service, stream))


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
    statuses = error_responses(*([409] if endpoint.update else []))
    is_file = issubclass(endpoint.Response, Media)
    if is_file:
        content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _media_types(endpoint.Response)}
        statuses[200] = {"description": "The file", "content": content}

    async def described(request: Any) -> None:
        """What OpenAPI says of the route: FastAPI reads the body's type from the annotation."""

    described.__annotations__["request"] = Request if endpoint.raw else endpoint.Request
    app.router.add_api_route(
        path,
        described,
        methods=["POST"],
        name="post",
        summary=endpoint.summary,
        description="",
        response_model=None if is_file else endpoint.Response,
        response_class=Response if is_file else JSONResponse,
        responses=statuses,
        openapi_extra=_file_openapi(endpoint, endpoint.raw) if endpoint.raw else None,
        route_class_override=_handled_by(
            _file_handler(service, endpoint, endpoint.raw) if endpoint.raw else _json_handler(service, endpoint)
        ),
    )


def _handled_by(handle: Handle) -> type[APIRoute]:
    """The class of a route that FastAPI describes and `handle` answers, for a fraction of the processor time."""

    class Route(APIRoute):
        def get_route_handler(self) -> Any:
            return handle

    return Route


def _json_handler(service: Service, endpoint: AnyEndpoint) -> Handle:
    """Answers an endpoint whose body is JSON; 415 for a body of another media type."""

    async def handle(request: Request) -> Response:
        kind, body = media_type(request), await request.body()
        if not is_json(kind) and (kind or body):  # a request without a body needs no type
            raise _unsupported(kind, (JSON,))
        return await _answered(service, endpoint, body)

    return handle


async def _answered(service: Service, endpoint: AnyEndpoint, body: bytes) -> Response:
    is_large = len(body) > LARGE_BYTES
    if is_large:
        asked = await service.answers.work(partial(json_bodies.read, endpoint, body))
    else:
        asked = json_bodies.read(endpoint, body)
    return _response(await service.answer(endpoint, asked, is_large=is_large))


def _connection(service: Service, stream: AnyStream) -> Callable[[WebSocket], Awaitable[None]]:
    async def connection(socket: WebSocket) -> None:
        await service.streams.serve(stream, service.current, socket)

    return connection


def _file_handler(service: Service, endpoint: AnyEndpoint, raw: RawBody) -> Handle:
    """Answers an endpoint that accepts a file; 415 for a body of another media type."""

    async def handle(request: Request) -> Response:
        kind = media_type(request)
        if is_json(kind):
            return await _answered(service, endpoint, await request.body())
        if kind not in raw.media_types:
            raise _unsupported(kind, (*raw.media_types, JSON))
        fields = {**request.query_params, raw.field: await request.body()}
        return _response(await service.answer(endpoint, json_bodies.validated(endpoint, fields)))

    return handle


def _unsupported(kind: str, wanted: Sequence[str]) -> HTTPException:
    return HTTPException(415, f"the Content-Type is {kind or 'missing'!r}; send one of {', '.join(wanted)}")


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
