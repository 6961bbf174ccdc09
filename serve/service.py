"""The service of one family: the loaded model, its features and the HTTP application; independent of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from models import FAMILIES, bundle, golden
from models.errors import BundleRejected
from models.family import AnyEndpoint, AnyStream, Media
from serve.answers import Answers, http_response, media_types
from serve.batching import Batcher
from serve.bodies import raw_openapi, raw_route
from serve.loaded import Loaded, Observer, make_loaded
from serve.problems import (
    MAX_BODY_BYTES,
    REQUEST_TIMEOUT_S,
    RequestRefused,
    error_responses,
    install,
    log,
    problem,
)
from serve.stored_features import StoredFeatures
from serve.streams import Streams


class Settings(BaseModel):
    """The model to serve; the `user_config` of the deployment."""

    model_config = ConfigDict(extra="forbid")

    version: str
    bundle: Path
    digest: str | None = None
    """sha256 of the bundle's manifest; a bundle with another digest is rejected."""
    feature_store: Path | None = None
    """Store of the features that `deploy` fills; replaced as a whole."""
    live_feature_store: Path | None = None
    """Store of the features that endpoints write, if the family has any; kept across model versions."""
    index: Path | None = None
    """Index of the catalogue, if the family has one."""


class FailedReload(BaseModel):
    """A model that failed to load."""

    version: str
    error: str
    at: str


class ModelInfo(BaseModel):
    """The model in use, and the last failed reload."""

    family: str
    version: str
    digest: str
    """sha256 of the model directory's manifest."""
    network: str
    data_fingerprint: str
    loaded_at: str
    last_failed_reload: FailedReload | None = None


class Service:
    """Answers a family's requests with the last model that was loaded."""

    def __init__(self, family_name: str, *, device: str = "cpu", observe: Observer | None = None) -> None:
        if family_name not in FAMILIES:
            raise ValueError(f"unknown family {family_name!r}; there are {', '.join(sorted(FAMILIES))}")
        self.family = FAMILIES[family_name]
        self.batcher = Batcher()
        self.answers = Answers(self.batcher)
        self.streams = Streams(self.batcher)
        self._device = device
        self._observe = observe or (lambda path, version, size: None)
        self._current: Loaded | None = None
        self._settings: Settings | None = None
        self._failed: FailedReload | None = None
        self._reloading = asyncio.Lock()

    @property
    def current(self) -> Loaded | None:
        """The model in use."""
        return self._current

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self._current is not None

    async def load(self, settings: Settings) -> None:
        """Load and verify a model, check its golden answer, and switch to it.

        On failure the previous model stays in use and `info` shows the error; without one it raises the error,
        which is BundleRejected for a damaged model and FeatureStoreUnreadable for a damaged feature store.
        """
        async with self._reloading:
            if self._settings == settings:
                return
            try:
                loaded = await asyncio.to_thread(self._load, settings)
            except Exception as error:  # whatever fails, the previous model stays in use
                is_described = isinstance(error, ValueError | OSError)
                reason = str(error) if is_described else f"{type(error).__name__}: {error}"
                self._failed = FailedReload(version=settings.version, error=reason, at=_now())
                if self._current is None:
                    raise
                log.error("version %s stays in use, %s was rejected: %s", self.info().version, settings.version, reason)
                return
            replaced, self._current = self._current, loaded
            self._settings, self._failed = settings, None
            if replaced is not None:
                self.answers.close_when_unused(replaced.features)
            log.info("now serving %s version %s", self.family.name, settings.version)

    def info(self) -> ModelInfo:
        """The model in use; the service must be ready."""
        loaded = self._current
        assert loaded is not None, "no model is loaded"
        return ModelInfo(
            family=self.family.name,
            version=loaded.version,
            digest=loaded.model.digest,
            network=str(getattr(loaded.model.config, "network", type(loaded.model.network).__name__)),
            data_fingerprint=loaded.model.schema.fingerprint,
            loaded_at=loaded.loaded_at,
            last_failed_reload=self._failed,
        )

    async def answer(self, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        """Answer a request; raises RequestRefused if it cannot be answered."""
        if self._current is None:
            raise RequestRefused("no model is loaded yet; try again later", status=503)
        return await self.answers.answer(self._current, endpoint, request)

    def _load(self, settings: Settings) -> Loaded:
        model = bundle.load(settings.bundle, self.family, device=self._device)
        if settings.digest not in (None, model.digest):
            raise BundleRejected(f"{settings.bundle} has digest {model.digest}, expected {settings.digest}")
        golden.check(self.family, model.network, model.schema, model.golden)
        if settings.index is not None:
            assert self.family.index is not None, f"{self.family.name} has no index"
            self.family.index.attach(model.network, settings.index)
        features = StoredFeatures(
            self.family, filled_store=settings.feature_store, live_store=settings.live_feature_store
        )
        return make_loaded(
            self.family, model, version=settings.version, features=features, observe=self._observe, loaded_at=_now()
        )


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

    return app


def _add_endpoint(app: FastAPI, service: Service, endpoint: AnyEndpoint, *, path: str) -> None:
    async def respond(endpoint: AnyEndpoint, request: BaseModel) -> Response:
        return http_response(await service.answer(endpoint, request))

    statuses = error_responses(*([409] if endpoint.update else []), *([415] if endpoint.raw else []))
    is_file = issubclass(endpoint.Response, Media)
    if is_file:
        content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types(endpoint.Response)}
        statuses[200] = {"description": "The file", "content": content}
    add = app.post(
        path,
        summary=endpoint.summary,
        response_model=None if is_file else endpoint.Response,
        response_class=Response if is_file else JSONResponse,
        responses=statuses,
        openapi_extra=raw_openapi(endpoint, endpoint.raw) if endpoint.raw else None,
    )
    add(raw_route(endpoint, endpoint.raw, respond) if endpoint.raw else _json_route(endpoint, respond))


def _json_route(
    endpoint: AnyEndpoint, respond: Callable[[AnyEndpoint, BaseModel], Awaitable[Response]]
) -> Callable[[Any], Awaitable[Response]]:
    async def post(request: Any) -> Response:
        return await respond(endpoint, request)

    # FastAPI reads the body's type from the annotation, which differs by endpoint.
    post.__annotations__["request"] = endpoint.Request
    return post


def _connection(service: Service, stream: AnyStream) -> Callable[[WebSocket], Awaitable[None]]:
    async def connection(socket: WebSocket) -> None:
        await service.streams.serve(stream, service.current, socket)

    return connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
