"""What answers requests for one family: the loaded model, its features and the HTTP application; knows no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from models import FAMILIES, bundle, golden
from models.ask import Answerer
from models.errors import BundleRejected
from models.family import AnyEndpoint, Family, Features
from models.features import FeatureStore
from serve.batching import Batcher, Predict
from serve.bodies import raw_openapi, raw_route
from serve.problems import MAX_BODY_BYTES, RequestRefused, documented, install, log, problem

Observer = Callable[[str, str, int], None]
"""Told (path, model version, batch size) of every batch."""


class Settings(BaseModel):
    """What to serve; the `user_config` of the deployment."""

    model_config = ConfigDict(extra="forbid")

    version: str
    bundle: Path
    digest: str | None = None
    """sha256 of the bundle's manifest: other files under the same path are refused."""
    feature_store: Path | None = None
    index: Path | None = None
    """What the model made of the catalogue, for a family that has such an index."""


class FailedReload(BaseModel):
    """A model that was to be served but could not be."""

    version: str
    error: str
    at: str


class ModelInfo(BaseModel):
    """The model that answers now, and the last one that could not take over."""

    family: str
    version: str
    digest: str
    """sha256 of the model directory's manifest."""
    network: str
    data_fingerprint: str
    loaded_at: str
    last_failed_reload: FailedReload | None = None


class StoredFeatures:
    """Looks features up in the SQLite file that `deploy` fills, and notices when it is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def lookup(self, family: Family, request: Any) -> Features:
        """The values that a request asks for."""
        try:
            is_replaced = _identity(self._path) != self._identity
        except FileNotFoundError:  # between two files, or gone: the open one still answers
            is_replaced = False
        if is_replaced:
            before = self._store
            self._open()
            before.close()
        return self._store.lookup(family.features, request)

    def _open(self) -> None:
        self._store = FeatureStore(self._path, read_only=True)
        self._identity = _identity(self._path)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, with all that a request needs; a request sees one from start to end."""

    settings: Settings
    model: bundle.Bundle
    features: StoredFeatures | None
    answerers: dict[str, Answerer]
    """Path of an endpoint -> the model there."""
    predicts: dict[str, Predict]
    """Path of an endpoint -> what runs a batch of its examples."""
    loaded_at: str


class Service:
    """Answers a family's requests with the model it was last given."""

    def __init__(self, family_name: str, *, device: str = "cpu", observe: Observer | None = None) -> None:
        if family_name not in FAMILIES:
            raise ValueError(f"unknown family {family_name!r}; there are {', '.join(sorted(FAMILIES))}")
        self.family = FAMILIES[family_name]
        self.batcher = Batcher()
        self._device = device
        self._observe = observe or (lambda path, version, size: None)
        self._current: Loaded | None = None
        self._failed: FailedReload | None = None
        self._reloading = asyncio.Lock()
        # One, so that no more than one large file is unpacked at a time.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    @property
    def is_ready(self) -> bool:
        """Whether there is a model to answer with."""
        return self._current is not None

    async def load(self, settings: Settings) -> None:
        """Verify a model, ask it its golden request and let it take over.

        When that fails the model before goes on and `info` shows the error; without one it raises BundleRejected.
        """
        async with self._reloading:
            if self._current is not None and self._current.settings == settings:
                return
            try:
                loaded = await asyncio.to_thread(self._load, settings)
            except (BundleRejected, OSError) as error:
                self._failed = FailedReload(version=settings.version, error=str(error), at=_now())
                if self._current is None:
                    raise
                log.error("version %s stays, %s was refused: %s", self.info().version, settings.version, error)
                return
            self._current, self._failed = loaded, None
            log.info("%s version %s answers now", self.family.name, settings.version)

    def info(self) -> ModelInfo:
        """What is served now; it must be ready."""
        loaded = self._current
        assert loaded is not None, "no model is loaded"
        return ModelInfo(
            family=self.family.name,
            version=loaded.settings.version,
            digest=loaded.model.digest,
            network=str(getattr(loaded.model.config, "network", type(loaded.model.network).__name__)),
            data_fingerprint=loaded.model.schema.fingerprint,
            loaded_at=loaded.loaded_at,
            last_failed_reload=self._failed,
        )

    async def answer(self, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        """Answer one request; raises RequestRefused when the family's `encode` cannot make an example of it."""
        loaded = self._current
        assert loaded is not None, "no model is loaded"
        answerer = loaded.answerers[endpoint.path]
        features = loaded.features.lookup(self.family, request) if loaded.features else {}
        try:
            if endpoint.raw is None:
                examples = answerer.encode(request, features)
            else:
                running = asyncio.get_running_loop()
                examples = await running.run_in_executor(self._decoder, answerer.encode, request, features)
        except ValueError as error:
            raise RequestRefused(str(error)) from error
        predict = loaded.predicts[endpoint.path]
        predictions = await asyncio.gather(*(self.batcher.submit(predict, example) for example in examples))
        return answerer.answer(request, predictions)

    def _load(self, settings: Settings) -> Loaded:
        model = bundle.load(settings.bundle, self.family, device=self._device)
        if settings.digest not in (None, model.digest):
            raise BundleRejected(f"{settings.bundle} has the digest {model.digest}, not {settings.digest}")
        golden.check(self.family, model.network, model.schema, model.golden)
        if settings.index is not None:
            assert self.family.index is not None, f"{self.family.name} has no index"
            self.family.index.attach(model.network, settings.index)
        answerers = {
            endpoint.path: Answerer(self.family, endpoint, model.network, model.schema, settings.version)
            for endpoint in self.family.endpoints
        }
        return Loaded(
            settings=settings,
            model=model,
            features=StoredFeatures(settings.feature_store) if settings.feature_store else None,
            answerers=answerers,
            predicts={path: self._predict(path, answerer) for path, answerer in answerers.items()},
            loaded_at=_now(),
        )

    def _predict(self, path: str, answerer: Answerer) -> Predict:
        def predict(examples: Sequence[Any]) -> list[Any]:
            self._observe(path, answerer.model_version, len(examples))
            return answerer.predict(examples)

        return predict


def make_app(service: Service) -> FastAPI:
    """The HTTP application of a service: a route for each endpoint of its family, what is served, health, OpenAPI."""
    prefix = service.family.route_prefix.rstrip("/")
    app = FastAPI(title=f"Shopkeeper: {service.family.name}", version="1")
    raws = [endpoint.raw for endpoint in service.family.endpoints if endpoint.raw is not None]
    install(app, max_body_bytes=max([MAX_BODY_BYTES, *(raw.max_bytes for raw in raws)]))
    for endpoint in service.family.endpoints:
        _add_endpoint(app, service, endpoint, path=endpoint.path.removeprefix(prefix))

    @app.get("/models" if prefix else "/v1/models", summary="Which model answers")
    async def models() -> ModelInfo:
        return service.info()

    @app.get("/healthz", summary="Whether there is a model to answer with")
    async def healthz() -> Response:
        if not service.is_ready:
            return problem(503, "no model is loaded yet")
        return Response('{"status":"ok"}', media_type="application/json")

    return app


def _add_endpoint(app: FastAPI, service: Service, endpoint: AnyEndpoint, *, path: str) -> None:
    if endpoint.raw is not None:
        route = raw_route(endpoint, endpoint.raw, service.answer)
        extra, statuses = raw_openapi(endpoint, endpoint.raw), documented(415)
    else:
        route, extra, statuses = _json_route(endpoint, service), None, documented()
    add = app.post(
        path, summary=endpoint.summary, response_model=endpoint.Response, responses=statuses, openapi_extra=extra
    )
    add(route)


def _json_route(endpoint: AnyEndpoint, service: Service) -> Callable[[Any], Awaitable[Response]]:
    async def post(request: Any) -> Response:
        answer = await service.answer(endpoint, request)
        return Response(answer.model_dump_json(), media_type="application/json")

    # FastAPI reads the body's type from here; it differs from endpoint to endpoint.
    post.__annotations__["request"] = endpoint.Request
    return post


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
