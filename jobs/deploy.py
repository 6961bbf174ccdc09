"""`shopkeeper deploy FAMILY`: serves a pinned model version over HTTP; if that fails, rolls back to the old one."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure, Outcome, Store, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.evaluation.scoring import check_fits
from jobs.serving.access import Access, access_settings, check_guarded, ensure_internal_key, internal_key, kept_access
from jobs.serving.api import ServeApi
from jobs.serving.config import (
    PINNED,
    PinnedModel,
    Size,
    application,
    check_config,
    config_path,
    empty_config,
    next_standby,
    read_config,
    user_config,
    with_application,
)
from jobs.serving.event_store import event_address
from jobs.serving.item_store import item_store
from jobs.serving.port import check_can_start, check_is_free, reserved
from jobs.serving.size import (
    DEFAULT_REPLICAS,
    WantedSize,
    describe_size,
    kept_size,
    num_that_fit,
    replica_bytes,
    resolve_address,
    resolve_size,
)
from jobs.serving.switch import Acceptance, Endpoint, endpoint_url, switch
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import champion_uri
from models import bundle, golden
from models.erasure.features import silenced
from models.erasure.tombstones import Tombstones
from models.errors import BundleRejected
from models.family import Family
from models.features import create_live_store, filled, live, write_store
from models.files import remove_directory, replace_directory


@dataclass(frozen=True)
class Options:
    """The model to serve, its address and its replicas."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY/VERSION, models:/FAMILY@ALIAS or a directory; default is the champion."""
    host: str | None = None
    """Address that the endpoint listens on, 0.0.0.0 for every interface; unset is that of before, else 127.0.0.1."""
    port: int | None = None
    """Port that the endpoint listens on; unset is that of before, else 8000. All families of a store share it."""
    min_replicas: int | None = None
    """Minimum number of replicas; unset is that of before, else 2, or 1 where the memory is free for no more."""
    max_replicas: int | None = None
    """Maximum number of replicas under load; unset is that of before, else the minimum, but at least 2."""
    cpus: float | None = None
    """CPUs reserved per replica; unset is that of before, else 1 on a cluster, 0 here, where training shares them."""
    gpus: float | None = None
    """GPUs reserved per replica, maybe a fraction; unset is that of before, else 0."""
    events: str | None = None
    """Where events are kept: redis://HOST:PORT/DB, needed for a cluster of several hosts, or none; default is what the
    last deployment used, at first the file events.sqlite of the store."""
    timeout_s: float = 180.0
    """Seconds to wait for the new model to respond before rolling back."""
    unguarded: bool = False
    """With --host: let other machines send requests without an API key, as behind a gateway that checks its own; for
    this and later deployments to that address, until there are keys."""
    request_log: str | None = None
    """Directory, or file with a suffix, for a log of some requests: JSON lines without bodies, ids as salted hashes; or
    none; unset is that of before, at first none."""
    request_log_sample: float | None = None
    """Share of the requests that --request-log writes, 0 to 1; unset is that of before, else 0.01."""

    def __post_init__(self) -> None:
        if self.request_log_sample is not None and not 0.0 <= self.request_log_sample <= 1.0:
            raise ValueError(f"--request-log-sample {self.request_log_sample} is not a share; use 0 to 1, such as 0.01")
        low = 1 if self.min_replicas is None else self.min_replicas
        if not 1 <= low <= (low if self.max_replicas is None else self.max_replicas):
            raise ValueError(
                f"--min-replicas {self.min_replicas} and --max-replicas {self.max_replicas} are invalid; "
                "use 1 <= min <= max"
            )
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError(f"--port {self.port} is not a port; use 1 to 65535")
        if not self.timeout_s >= 0:
            raise ValueError(f"--timeout-s {self.timeout_s} is not a duration; use 0 or more, such as 180")
        for flag, value in (("--cpus", self.cpus), ("--gpus", self.gpus)):
            if value is not None and not value >= 0:
                raise ValueError(f"{flag} {value} cannot be reserved; use 0 or more")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Serve a model at the family's endpoints; if it does not come up, the previous one keeps serving."""
    assert family is not None, "deploy works on a family"
    before = read_config(config_path(context.store))
    check_guarded(context, _access(family, options, before))
    ensure_internal_key(context.store)
    located = locate_model(context, options.model or champion_uri(family.name))
    loaded = load_checked(family, located.directory)
    check_fits(context, family, loaded.schema)
    model = pin(context.store, family, located)
    features = _fill_features(context.store, family)
    index = build_index(context.store, family, loaded)
    _, port = resolve_address(options.host, options.port, before)
    with reserved(context.store, port) if context.address is None else nullcontext():
        endpoint, size = _apply(context, family, options, loaded, model, index=index)
    log.info("%s version %s is served at %s", family.name, model.version, endpoint.url)
    details = {
        "url": endpoint.url,
        "version": model.version,
        "digest": model.digest,
        "dashboard_url": endpoint.api.dashboard_url,
        "metrics": f"{endpoint.url}{family.route_prefix.rstrip('/')}/metrics",
        "endpoints": endpoint_urls(family, endpoint.url),
        "features": features,
        "replicas": dataclasses.asdict(size),
    }
    return Outcome(run_id=located.run_id, details=details)


def _apply(
    context: Context,
    family: Family,
    options: Options,
    loaded: bundle.Bundle,
    model: PinnedModel,
    *,
    index: Path | None,
) -> tuple[Endpoint, Size]:
    """Make the cluster serve the model, or what it served before if that fails; returns the endpoint and replicas."""
    path = config_path(context.store)
    before = read_config(path)
    wanted = _target_config(context, family, options, model, before, index=index)
    check_config(wanted)
    api = _connect(context, wanted["http_options"])
    endpoint = Endpoint(
        api, endpoint_url(context, api.dashboard_url, wanted["http_options"]), path, key=internal_key(context.store)
    )
    switch(
        *(endpoint, family, model),
        wanted=wanted,
        before=before,
        acceptance=Acceptance(loaded.golden, timeout_s=options.timeout_s),
    )
    _prune(context.store, family, wanted)
    return endpoint, kept_size(wanted, family) or Size()


def endpoint_urls(family: Family, url: str) -> list[str]:
    """The URLs of a family's endpoints, then those of its streams."""
    streams = [f"{url.replace('http', 'ws', 1)}{stream.path}" for stream in family.streams]
    return [*(f"{url}{endpoint.path}" for endpoint in family.endpoints), *streams]


def pin(store: Store, family: Family, located: LocatedModel) -> PinnedModel:
    """Copy a model into the store by version, so that it cannot change or vanish while it is served."""
    digest = bundle.verify(located.directory)
    directory = store.root / PINNED / family.name / located.name
    if not _has_digest(directory, digest):
        with replace_directory(directory) as temporary:
            shutil.copytree(located.directory, temporary, dirs_exist_ok=True)
            bundle.verify(temporary)
    return PinnedModel(version=located.name, directory=directory, digest=digest)


def _has_digest(directory: Path, digest: str) -> bool:
    try:
        return bundle.verify(directory) == digest
    except BundleRejected:
        return False


def load_checked(family: Family, directory: Path) -> bundle.Bundle:
    """The model, after its golden request was answered correctly; raises Failure."""
    try:
        loaded = bundle.load(directory, family)
        golden.check(family, loaded.network, loaded.schema, loaded.golden)
    except BundleRejected as error:
        raise Failure(f"not deployed: {error}") from error
    return loaded


def _fill_features(store: Store, family: Family) -> dict[str, int]:
    """Rebuild the feature store from the current data; returns rows per feature.

    The store of features that endpoints write is created if missing and never overwritten.
    """
    if live(family.features):
        create_live_store(store.live_feature_store(family.name))
    if not filled(family.features):
        return {}
    data = store.current_data(family.name)
    log.info("filling the feature store from %s", data.path)
    features = silenced(family.features, Tombstones(store.tombstones))
    return write_store(store.feature_store(family.name), features, data)


def build_index(store: Store, family: Family, loaded: bundle.Bundle) -> Path | None:
    """The index of the current catalogue, built once per model and data; None if the family has no index."""
    if family.index is None:
        return None
    data = store.current_data(family.name)
    directory = store.serve / "indexes" / family.name / f"{loaded.digest[:16]}-{data.name}"
    if not directory.is_dir():
        log.info("indexing the catalogue of %s", data.path)
        count = family.index.write(loaded.network, data, loaded.schema, directory)
        log.info("the index has %d entries", count)
        if not count:
            log.warning(
                "answers that name entries of the catalogue stay empty: the prepared data of %s has no ids", data.path
            )
    return directory


def _target_config(
    context: Context,
    family: Family,
    options: Options,
    model: PinnedModel,
    before: Mapping[str, Any] | None,
    *,
    index: Path | None,
) -> dict[str, Any]:
    store, features = context.store, family.features
    added = application(
        family,
        model,
        feature_store=store.feature_store(family.name) if filled(features) else None,
        live_feature_store=store.live_feature_store(family.name) if live(features) else None,
        size=_size(context, options, kept_size(before, family), model.directory, index),
        index=index,
        events=event_address(context, family, options.events, before),
        erased=store.tombstones,
        items=item_store(context, family),
        standby=next_standby(user_config(before, family), version=model.version, digest=model.digest),
    )
    host, port = resolve_address(options.host, options.port, before)
    added["deployments"][0]["user_config"] |= access_settings(store, _access(family, options, before))
    fresh = empty_config(host=host, port=port)
    return with_application({**fresh, "applications": before["applications"] if before else []}, added)


def _access(family: Family, options: Options, before: Mapping[str, Any] | None) -> Access:
    """Who may use the endpoint, and what is noted of it, by the options or as before."""
    host, _ = resolve_address(options.host, options.port, before)
    wanted = Access(host, options.unguarded, options.request_log, options.request_log_sample)
    return kept_access(wanted, before, user_config(before, family))


def _size(context: Context, options: Options, kept: Size | None, *directories: Path | None) -> Size:
    """The replicas that the options ask for, or that there were before, or the default; it is said why."""
    is_local = context.address is None
    bytes_each = replica_bytes(*directories)
    fits = num_that_fit(bytes_each) if is_local else DEFAULT_REPLICAS
    wanted = WantedSize(options.min_replicas, options.max_replicas, options.cpus, options.gpus)
    size = resolve_size(wanted, kept, default_cpus=0.0 if is_local else 1.0, fits=fits)
    describe_size(size, kept, bytes_each=bytes_each, fits=fits)
    return size


def _connect(context: Context, http: Mapping[str, Any]) -> ServeApi:
    """Connect to Ray Serve, starting the local cluster if needed; raises UsageFailure if the port cannot be used."""
    is_local = context.address is None
    if is_local:
        check_can_start(context.store, http["host"], http["port"])  # before starting a cluster in vain
    api = ServeApi(*dashboard(context))
    if not _is_listening(context, api, http) and is_local:
        check_is_free(http["host"], http["port"])
    return api


def _is_listening(context: Context, api: ServeApi, wanted: Mapping[str, Any]) -> bool:
    """Whether Serve is already running; raises UsageFailure if it listens elsewhere, which it cannot change."""
    details = api.details()
    http = details.get("http_options")
    if not http or not details.get("proxies"):
        return False
    if (http["host"], http["port"]) != (wanted["host"], wanted["port"]):
        raise UsageFailure(
            f"the endpoint listens on {http['host']}:{http['port']}, not {wanted['host']}:{wanted['port']}; "
            f"deploy with --host {http['host']} --port {http['port']}, or run `{context.command('stop')}` first"
        )
    return True


def _prune(store: Store, family: Family, *configs: Mapping[str, Any] | None) -> None:
    """Delete the pinned models and indexes of a family that no config refers to; they are rebuilt when needed."""
    served = [user_config(config, family) for config in configs]
    named = {
        (each or {}).get(key) for one in served for each in (one, one.get("standby")) for key in ("bundle", "index")
    }
    for kind in (store.root / PINNED, store.serve / "indexes"):
        for directory in (kind / family.name).glob("[!.]*"):
            if str(directory) in named:
                continue
            try:
                remove_directory(directory)
            except OSError as error:  # does not affect the deployment
                log.warning("could not delete %s, which is no longer needed: %s", directory, error)
