"""The service of one family: loads and reloads its model, and answers requests with it; independent of Ray."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models import FAMILIES, bundle, golden
from models.errors import BundleRejected
from models.family import AnyEndpoint
from serve.access import request_log
from serve.access.guard import Guard
from serve.access.request_log import RequestLog
from serve.access.settings import AccessSettings
from serve.answers import Answers
from serve.batching import Batcher
from serve.loaded_model import Loaded, Observer, make_loaded
from serve.metrics import (
    ANSWERS,
    EMPTY_ANSWERS,
    LOG_DROPPED,
    MODEL_INFO,
    MODEL_LOADED,
    RELOADS,
    Metrics,
)
from serve.problems import RequestRefused, log
from serve.shared_metrics import SharedMetrics
from serve.stored_features import StoredFeatures
from serve.streams import Streams


class Settings(AccessSettings):
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
        self.metrics = Metrics(family_name)
        self.guard = Guard()
        self.request_log = RequestLog(family_name, on_drop=lambda: self.metrics.count(LOG_DROPPED))
        self.shared_metrics: SharedMetrics | None = None
        """The counts of all replicas; None until `share_metrics`."""
        self._observe = observe or self.metrics.observe_batch
        self._current: Loaded | None = None
        self._settings: Settings | None = None
        self._failed: FailedReload | None = None
        self._reloading = asyncio.Lock()
        self._sharing: asyncio.Task[None] | None = None

    @property
    def current(self) -> Loaded | None:
        """The model in use."""
        return self._current

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self._current is not None

    @property
    def cluster_record(self) -> Path | None:
        """The record of the local cluster, if the endpoint is served by one."""
        return self._settings.cluster if self._settings is not None else None

    def share_metrics(self) -> None:
        """Share counts with the other replicas from now on, if the settings name a directory; on the event loop."""
        directory = self._settings.metrics if self._settings is not None else None
        if directory is None or (self.shared_metrics is not None and self.shared_metrics.directory == directory):
            return
        shared = self.shared_metrics = SharedMetrics(self.metrics, directory)
        if self._sharing is not None:
            self._sharing.cancel()
        self._sharing = asyncio.create_task(shared.keep_writing())
        self.guard.num_replicas = lambda: shared.num_replicas

    async def load(self, settings: Settings) -> None:
        """Load and verify a model, check its golden answer, and switch to it.

        On failure the previous model stays in use and `info` shows the error; without one it raises the error,
        which is BundleRejected for a damaged model and FeatureStoreUnreadable for a damaged feature store.
        """
        async with self._reloading:
            self.guard.configure(settings.keys, is_required=settings.requires_keys)
            if self._settings == settings:
                return
            try:
                self.request_log.configure(settings.log_settings)
                loaded = await asyncio.to_thread(self._load, settings)
            except Exception as error:  # whatever fails, the previous model stays in use
                is_described = isinstance(error, ValueError | OSError)
                reason = str(error) if is_described else f"{type(error).__name__}: {error}"
                self._failed = FailedReload(version=settings.version, error=reason, at=_now())
                self.metrics.count(RELOADS, "rejected")
                if self._current is None:
                    raise
                log.error("version %s stays in use, %s was rejected: %s", self.info().version, settings.version, reason)
                return
            replaced, self._current = self._current, loaded
            self._settings, self._failed = settings, None
            if replaced is not None:
                self.answers.close_when_unused(replaced.features)
            self._count_loaded(loaded)
            log.info("now serving %s version %s", self.family.name, settings.version)

    def info(self) -> ModelInfo:
        """The model in use; the service must be ready."""
        loaded = self._current
        assert loaded is not None, "no model is loaded"
        return ModelInfo(
            family=self.family.name,
            version=loaded.version,
            digest=loaded.model.digest,
            network=_network(loaded),
            data_fingerprint=loaded.model.schema.fingerprint,
            loaded_at=loaded.loaded_at,
            last_failed_reload=self._failed,
        )

    async def answer(self, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        """Answer a request; raises RequestRefused if it cannot be answered."""
        if self._current is None:
            raise RequestRefused("no model is loaded yet; try again later", status=503)
        loaded = self._current
        if record := request_log.current():
            record.model_version = loaded.version
            self.request_log.note_ids(record, {each.name: each.keys(request) for each in self.family.features})
        answer = await self.answers.answer(loaded, endpoint, request)
        self._count_answer(endpoint, answer)
        return answer

    def _count_answer(self, endpoint: AnyEndpoint, answer: BaseModel) -> None:
        """By the fields of a response that families share: `source`, what it rests on, and `items`."""
        source = getattr(answer, "source", None)
        if source is not None:
            self.metrics.count(ANSWERS, endpoint.path, str(source))
        if getattr(answer, "items", None) == []:
            self.metrics.count(EMPTY_ANSWERS, endpoint.path)

    def _count_loaded(self, loaded: Loaded) -> None:
        self.metrics.count(RELOADS, "loaded")
        self.metrics.clear(MODEL_INFO)
        self.metrics.set(MODEL_INFO, loaded.version, _network(loaded), value=1)
        self.metrics.set(MODEL_LOADED, value=datetime.fromisoformat(loaded.loaded_at).timestamp())

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
        return make_loaded(model, version=settings.version, features=features, observe=self._observe, loaded_at=_now())


def _network(loaded: Loaded) -> str:
    return str(getattr(loaded.model.config, "network", type(loaded.model.network).__name__))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
