"""The service of one family: loads and reloads its model, and answers requests with it; independent of Ray."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models import FAMILIES, bundle, golden
from models.errors import BundleRejected
from models.family import AnyEndpoint
from serve.answers import Answers
from serve.batching import Batcher
from serve.loaded_model import Loaded, Observer, make_loaded
from serve.problems import RequestRefused, log
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
    standby: str | None = None
    """Version that is loaded too, and that a rollback swaps in at once."""


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
        self._standby = Standby[Settings](load=self._load_standby, discard=self._close)

    @property
    def current(self) -> Loaded | None:
        """The model in use."""
        return self._current

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self._current is not None

    async def load(self, settings: Settings) -> None:
        """Load and verify a model, check its golden answer, and switch to it; the standby is only switched to.

        On failure the previous model stays in use and `info` shows the error; without one it raises the error,
        which is BundleRejected for a damaged model and FeatureStoreUnreadable for a damaged feature store.
        """
        async with self._reloading:
            before = self._settings
            if before == settings:
                return
            if before is None or before.alone != settings.alone:
                if not await self._switch(settings):
                    return
            else:
                self._standby.keep(settings.of_standby)
            self._settings, self._failed = settings, None

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
            standby=self._standby.version,
        )

    async def answer(self, endpoint: AnyEndpoint, request: BaseModel) -> BaseModel:
        """Answer a request; raises RequestRefused if it cannot be answered."""
        if self._current is None:
            raise RequestRefused("no model is loaded yet; try again later", status=503)
        return await self.answers.answer(self._current, endpoint, request)

    async def _switch(self, settings: Settings) -> bool:
        """Use another model and hold its standby; False if it was rejected and the previous one stays in use."""
        try:
            loaded = await self._take_standby(settings) or await asyncio.to_thread(self._load, settings)
        except Exception as error:  # whatever fails, the previous model stays in use
            is_described = isinstance(error, ValueError | OSError)
            reason = str(error) if is_described else f"{type(error).__name__}: {error}"
            self._failed = FailedReload(version=settings.version, error=reason, at=_now())
            if self._current is None:
                raise
            log.error("version %s stays in use, %s was rejected: %s", self.info().version, settings.version, reason)
            return False
        replaced, self._current = self._current, loaded
        before = self._settings.alone if self._settings else None
        self._standby.keep(settings.of_standby, replaced=(before, replaced) if before and replaced else None)
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
        return dataclasses.replace(standby, loaded_at=_now())

    async def _load_standby(self, settings: Settings) -> Loaded:
        await asyncio.to_thread(check_fits_in_memory, settings.bundle, settings.index)
        return await asyncio.to_thread(self._load, settings)

    def _close(self, loaded: Loaded) -> None:
        self.answers.close_when_unused(loaded.features)

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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
