"""The service of one family: loads and reloads its model, and answers requests with it; independent of Ray."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
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
from serve.erasure import Erasure
from serve.events import Events
from serve.live_items import LiveItemsInfo, follow_items
from serve.loaded_model import Loaded, Observer, make_loaded
from serve.metrics import (
    ANSWERS,
    EMPTY_ANSWERS,
    EVENT_STORE_ERRORS,
    EVENTS,
    FEATURE_STORE_ERRORS,
    LOG_DROPPED,
    MODEL_INFO,
    MODEL_LOADED,
    RELOADS,
    Metrics,
)
from serve.problems import RequestRefused, log
from serve.shared_metrics import SharedMetrics
from serve.standby import Standby, check_fits_in_memory
from serve.stored_features import StoredFeatures
from serve.streams import Streams


class Source(BaseModel):
    """A model and where its files are."""

    model_config = ConfigDict(extra="forbid")

    version: str
    bundle: Path
    digest: str | None = None
    """sha256 of the bundle's manifest; a bundle with another digest is rejected."""
    index: Path | None = None
    """Index of the catalogue, if the family has one."""


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
    events: str | None = None
    """Address of the event store, see `models.events.store.open_events`; kept across model versions."""
    erased: Path | None = None
    """The tombstones of erased users, of all families; the file need not exist."""
    items: str | None = None
    """Address of the store of live items, see `models.items.store.open_items`; kept across model versions."""
    standby: Source | None = None
    """The model to keep loaded, for a rollback at once; None keeps none."""

    @property
    def alone(self) -> Settings:
        """The same without a standby."""
        return self.model_copy(update={"standby": None})

    @property
    def of_standby(self) -> Settings | None:
        """The settings that serve the standby, with the same stores."""
        return None if self.standby is None else self.alone.model_copy(update=dict(self.standby))


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
    degraded: str | None = None
    """What is wrong with a feature store, while requests that need it get the family's fallback, or 503; or with the
    tombstones of erased users, while all users are answered as unknown; or with live items, which are then those of
    before."""
    standby: str | None = None
    """Version that is loaded too, and that a rollback swaps in at once."""
    live_items: LiveItemsInfo | None = None
    """The items that were put since the data was prepared, and whether they are up to date."""


class Service:
    """Answers a family's requests with the last model that was loaded."""

    def __init__(
        self,
        family_name: str,
        *,
        device: str = "cpu",
        observe: Observer | None = None,
    ) -> None:
        """Calls `observe` for every batch."""
        if family_name not in FAMILIES:
            raise ValueError(f"unknown family {family_name!r}; there are {', '.join(sorted(FAMILIES))}")
        self.family = FAMILIES[family_name]
        self.batcher = Batcher()
        self.erasure = Erasure()
        self.metrics = Metrics(family_name)
        use = self.family.events
        self.events = Events(use, erasure=self.erasure, observe=self._count_events) if use else None
        self.answers = Answers(
            self.batcher, events=self.events, on_store_error=partial(self.metrics.count, FEATURE_STORE_ERRORS)
        )
        self.streams = Streams(self.batcher)
        self._device = device
        self.guard = Guard()
        self.request_log = RequestLog(family_name, on_drop=lambda: self.metrics.count(LOG_DROPPED))
        self.shared_metrics: SharedMetrics | None = None
        """The counts of all replicas; None until `share_metrics`."""
        self._observe = observe or self.metrics.observe_batch
        self._current: Loaded | None = None
        self._settings: Settings | None = None
        self._failed: FailedReload | None = None
        self._reloading = asyncio.Lock()
        self._standby = Standby[Settings](load=self._load_standby, discard=self._close)
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
        """Load and verify a model, check its golden answer, and switch to it; the standby is only switched to.

        On failure the previous model stays in use and `info` shows the error; without one it raises the error,
        such as BundleRejected. A damaged feature store fails a reload only: without a previous model the service
        starts, degraded.
        """
        async with self._reloading:
            self.guard.configure(settings.keys, is_required=settings.requires_keys)
            before = self._settings
            if before == settings:
                return
            if before is None or before.alone != settings.alone:
                if not await self._switch(settings):
                    return
            else:
                self._standby.keep(settings.of_standby)
            self._settings, self._failed = settings, None
            if self.events is not None:
                self.events.use(settings.events)

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
            degraded=self.fault(),
            standby=self._standby.version,
            live_items=loaded.live.info() if loaded.live else None,
        )

    def fault(self) -> str | None:
        """What is wrong with a feature store of the model in use, the tombstones or live items; None if nothing is."""
        if self._current is None:
            return None
        self._current.features.probe(reader=self.answers.worker, writer=self.answers.writer)
        of_items = self._current.live.fault if self._current.live else None
        return self._current.features.fault or self.erasure.fault or of_items

    async def answer(self, endpoint: AnyEndpoint, request: BaseModel, *, is_large: bool = False) -> BaseModel:
        """Answer a request, a large one off the event loop; raises RequestRefused if it cannot be answered."""
        if self._current is None:
            raise RequestRefused("no model is loaded yet; try again later", status=503)
        loaded = self._current
        if record := request_log.current():
            record.model_version = loaded.version
            with suppress(ValueError):  # which the answer reports
                self.request_log.note_ids(record, {each.name: each.keys(request) for each in self.family.features})
        answer = await self.answers.answer(loaded, endpoint, request, is_large=is_large)
        self._count_answer(endpoint, answer)
        return answer

    def _count_answer(self, endpoint: AnyEndpoint, answer: BaseModel) -> None:
        """By the fields of a response that families share: `source`, what it rests on, and `items`."""
        source = getattr(answer, "source", None)
        if source is not None:
            self.metrics.count(ANSWERS, endpoint.path, str(source))
        if getattr(answer, "items", None) == []:
            self.metrics.count(EMPTY_ANSWERS, endpoint.path)

    def _count_events(self, outcome: str, count: int) -> None:
        """See `serve.events.EventObserver`."""
        if outcome == "unavailable":
            self.metrics.count(EVENT_STORE_ERRORS, by=count)
        else:
            self.metrics.count(EVENTS, outcome, by=count)

    def _count_loaded(self, loaded: Loaded) -> None:
        self.metrics.count(RELOADS, "loaded")
        self.metrics.clear(MODEL_INFO)
        self.metrics.set(MODEL_INFO, loaded.version, _network(loaded), value=1)
        self.metrics.set(MODEL_LOADED, value=datetime.fromisoformat(loaded.loaded_at).timestamp())

    def knows(self, item_id: str) -> bool:
        """Whether an item of an event counts in histories: the model knows it, or a live item is like one it knows.

        Raises RequestRefused if there is no model.
        """
        loaded = self._current
        if loaded is None:
            raise RequestRefused("no model is loaded yet; try again later", status=503)
        assert self.family.events is not None, f"{self.family.name} takes no events"
        is_live = loaded.live is not None and loaded.live.view.has_context(item_id)
        return is_live or self.family.events.is_known(loaded.model.schema, item_id)

    async def _switch(self, settings: Settings) -> bool:
        """Use another model and hold its standby; False if it was rejected and the previous one stays in use."""
        try:
            self.request_log.configure(settings.log_settings)
            loaded = await self._take_standby(settings)
            if loaded is None:
                loaded = await asyncio.to_thread(self._load, settings)
        except Exception as error:  # whatever fails, the previous model stays in use
            is_described = isinstance(error, ValueError | OSError)
            reason = str(error) if is_described else f"{type(error).__name__}: {error}"
            self._failed = FailedReload(version=settings.version, error=reason, at=_now())
            self.metrics.count(RELOADS, "rejected")
            if self._settings is None:
                raise
            self.erasure.use(self._settings.erased, events=self._settings.events, must_open=False)
            log.error("version %s stays in use, %s was rejected: %s", self.info().version, settings.version, reason)
            return False
        replaced, self._current = self._current, loaded
        before = self._settings.alone if self._settings else None
        self._standby.keep(settings.of_standby, replaced=(before, replaced) if before and replaced else None)
        self._count_loaded(loaded)
        log.info("now serving %s version %s", self.family.name, settings.version)
        return True

    async def _take_standby(self, settings: Settings) -> Loaded | None:
        """The standby, if it is that model and still gives the golden answer."""
        standby = await self._standby.take(settings.alone)
        if standby is None:
            return None
        model = standby.model
        try:
            await asyncio.to_thread(golden.check, self.family, model.network, model.schema, model.golden)
        except BundleRejected as error:
            log.warning("version %s is loaded again, as the one in memory is wrong: %s", settings.version, error)
            self._close(standby)
            return None
        if standby.live is not None:  # which follows them once a second
            await asyncio.to_thread(standby.live.refresh)
        return dataclasses.replace(standby, loaded_at=_now())

    async def _load_standby(self, settings: Settings) -> Loaded:
        await asyncio.to_thread(check_fits_in_memory, settings.bundle, settings.index)
        return await asyncio.to_thread(self._load, settings, is_standby=True)

    def _close(self, loaded: Loaded) -> None:
        self.answers.close_when_unused(loaded.features)

    def _load(self, settings: Settings, *, is_standby: bool = False) -> Loaded:
        model = bundle.load(settings.bundle, self.family, device=self._device)
        if settings.digest not in (None, model.digest):
            raise BundleRejected(f"{settings.bundle} has digest {model.digest}, expected {settings.digest}")
        golden.check(self.family, model.network, model.schema, model.golden)
        if settings.index is not None:
            assert self.family.index is not None, f"{self.family.name} has no index"
            self.family.index.attach(model.network, settings.index)
        must_open = self._current is not None
        if not is_standby:  # which has the same as the model in use
            self.erasure.use(settings.erased, events=settings.events, must_open=must_open)
        features = StoredFeatures(
            self.family,
            filled_store=settings.feature_store,
            live_store=settings.live_feature_store,
            must_open=must_open,
            tombstones=self.erasure.tombstones,
        )
        return make_loaded(
            model,
            version=settings.version,
            features=features,
            observe=self._observe,
            loaded_at=_now(),
            live=follow_items(self.family, model.schema, address=settings.items, feature_store=settings.feature_store),
        )


def _network(loaded: Loaded) -> str:
    return str(getattr(loaded.model.config, "network", type(loaded.model.network).__name__))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
