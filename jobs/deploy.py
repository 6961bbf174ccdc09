"""`shopkeeper deploy FAMILY`: serves a pinned model version over HTTP; if that fails, rolls back to the old one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.cli.context import Context, Failure, Outcome, Store, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import running_head
from jobs.serving.access import Access, access_settings, check_guarded, ensure_internal_key, internal_key
from jobs.serving.api import ServeApi, read_file, read_json
from jobs.serving.config import (
    PINNED,
    PinnedModel,
    Size,
    application,
    check_config,
    config_path,
    empty_config,
    read_config,
    user_config,
    with_application,
    write_config,
)
from jobs.serving.port import check_is_free, reserved
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import champion_uri
from models import bundle, golden
from models.errors import BundleRejected
from models.family import Family, Media
from models.features import create_live_store, filled, live, write_store
from models.files import remove_directory, replace_directory

POLL_S = 0.25
NUM_VERSION_CHECKS = 4
"""Version requests per replica, on new connections, so that very likely each replica responds once."""


@dataclass(frozen=True)
class Options:
    """The model to serve, its address and its replicas."""

    model: str | None = None
    """runs:/RUN_ID, models:/FAMILY/VERSION, models:/FAMILY@ALIAS or a directory; default is the champion."""
    host: str = "127.0.0.1"
    """Address that the endpoint listens on; 0.0.0.0 is every interface, as needed on a multi-node cluster."""
    port: int = 8000
    """Port that the endpoint listens on."""
    min_replicas: int = 1
    """Minimum number of replicas."""
    max_replicas: int = 2
    """Maximum number of replicas under load."""
    cpus: float | None = None
    """CPUs reserved per replica; default is 1 on a cluster and 0 on this machine, where training shares the CPUs."""
    gpus: float = 0.0
    """GPUs reserved per replica; may be a fraction."""
    timeout_s: float = 180.0
    """Seconds to wait for the new model to respond before rolling back."""
    unguarded: bool = False
    """With --host: let other machines send requests without an API key, as behind a gateway that checks its own."""
    request_log: str | None = None
    """Directory, or file with a suffix, for a log of some requests: JSON lines without bodies, ids as salted hashes."""
    request_log_sample: float = 0.01
    """Share of the requests that --request-log writes, 0 to 1."""

    @property
    def access(self) -> Access:
        """The flags that say who may use the endpoint and what is noted of it."""
        return Access(self.host, self.unguarded, self.request_log, self.request_log_sample)

    def __post_init__(self) -> None:
        if not 0.0 <= self.request_log_sample <= 1.0:
            raise ValueError(f"--request-log-sample {self.request_log_sample} is not a share; use 0 to 1, such as 0.01")
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"--min-replicas {self.min_replicas} and --max-replicas {self.max_replicas} are invalid; "
                "use 1 <= min <= max"
            )
        if not 0 < self.port < 65536:
            raise ValueError(f"--port {self.port} is not a port; use 1 to 65535")
        if not self.timeout_s >= 0:
            raise ValueError(f"--timeout-s {self.timeout_s} is not a duration; use 0 or more, such as 180")
        for flag, value in (("--cpus", self.cpus), ("--gpus", self.gpus)):
            if value is not None and not value >= 0:
                raise ValueError(f"{flag} {value} cannot be reserved; use 0 or more")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Serve a model at the family's endpoints; if it does not come up, the previous one keeps serving."""
    assert family is not None, "deploy works on a family"
    check_guarded(context, options.access)
    ensure_internal_key(context.store)
    located = locate_model(context, options.model or champion_uri(family.name))
    loaded = _load_checked(family, located.directory)
    model = pin(context.store, family, located)
    features = _fill_features(context.store, family)
    index = _build_index(context.store, family, loaded)
    with reserved(context.store, options.port) if context.address is None else nullcontext():
        api, url = _apply(context, family, options, loaded, model, index=index)
    log.info("%s version %s is served at %s", family.name, model.version, url)
    details = {"url": url, "version": model.version, "digest": model.digest, "dashboard_url": api.dashboard_url}
    details["metrics"] = f"{url}{family.route_prefix.rstrip('/')}/metrics"
    return Outcome(
        run_id=located.run_id, details={**details, "endpoints": endpoint_urls(family, url), "features": features}
    )


def _apply(
    context: Context,
    family: Family,
    options: Options,
    loaded: bundle.Bundle,
    model: PinnedModel,
    *,
    index: Path | None,
) -> tuple[ServeApi, str]:
    """Make the cluster serve the model, or what it served before if that fails; returns the API and the URL."""
    before = read_config(config_path(context.store))
    wanted = _target_config(context, family, options, model, before, index=index)
    check_config(wanted)
    api = _connect(context, options)
    url = _url(context, api, options)
    try:
        api.apply(wanted)
        key = internal_key(context.store)
        _wait_until_served(api, family, model, url=url, timeout_s=options.timeout_s, key=key)
        _check_golden(family, loaded.golden, url, key=key)
    except BaseException as error:
        _roll_back(api, before, options)
        if isinstance(error, Failure):
            previous = _served_version(before, family)
            error.args = (f"{error}; {f'version {previous} keeps serving' if previous else 'it was removed again'}",)
        raise
    write_config(config_path(context.store), wanted)
    _prune(context.store, family, wanted, before)
    return api, url


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


def _load_checked(family: Family, directory: Path) -> bundle.Bundle:
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
    return write_store(store.feature_store(family.name), family.features, data)


def _build_index(store: Store, family: Family, loaded: bundle.Bundle) -> Path | None:
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
    cpus = options.cpus if options.cpus is not None else 0.0 if context.address is None else 1.0
    size = Size(options.min_replicas, options.max_replicas, cpus, options.gpus)
    store, features = context.store, family.features
    added = application(
        family,
        model,
        feature_store=store.feature_store(family.name) if filled(features) else None,
        live_feature_store=store.live_feature_store(family.name) if live(features) else None,
        size=size,
        index=index,
    )
    added["deployments"][0]["user_config"] |= access_settings(store, options.access)
    fresh = empty_config(host=options.host, port=options.port)
    return with_application({**fresh, "applications": before["applications"] if before else []}, added)


def _connect(context: Context, options: Options) -> ServeApi:
    """Connect to Ray Serve, starting the local cluster if needed; raises UsageFailure if the port cannot be used."""
    is_local = context.address is None
    if is_local and running_head(context.store) is None:
        check_is_free(options.host, options.port)  # before starting a cluster in vain
    api = ServeApi(*dashboard(context))
    if not _is_listening(context, api, options) and is_local:
        check_is_free(options.host, options.port)
    return api


def _is_listening(context: Context, api: ServeApi, options: Options) -> bool:
    """Whether Serve is already running; raises UsageFailure if it listens elsewhere, which it cannot change."""
    details = api.details()
    http = details.get("http_options")
    if not http or not details.get("proxies"):
        return False
    if (http["host"], http["port"]) != (options.host, options.port):
        raise UsageFailure(
            f"the endpoint listens on {http['host']}:{http['port']}, not {options.host}:{options.port}; "
            f"deploy with --host {http['host']} --port {http['port']}, or run `{context.command('stop')}` first"
        )
    return True


def _url(context: Context, api: ServeApi, options: Options) -> str:
    """URL of the endpoint as seen from this machine."""
    host = options.host
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if context.address is None else urlsplit(api.dashboard_url).hostname or host
    return f"http://{host}:{options.port}"


def _wait_until_served(
    api: ServeApi, family: Family, model: PinnedModel, *, url: str, timeout_s: float, key: str | None = None
) -> None:
    """Wait until the application is running and every replica reports the model; raises Failure."""
    address = f"{url}{family.models_path}"
    deadline = time.monotonic() + timeout_s
    seen = "no response"
    while time.monotonic() < deadline:
        state = api.details()["applications"].get(family.name, {})
        status = state.get("status", "not started")
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise Failure(f"version {model.version} did not start: {_reason(state)}")
        if status == "RUNNING":
            infos = _infos(address, state, key=key)
            seen = f"version {', '.join(sorted({info['version'] for info in infos}))} is served" if infos else seen
            if infos and all(_serves(info, model) for info in infos):
                return
        time.sleep(POLL_S)
    raise Failure(f"version {model.version} did not respond within {timeout_s:.0f} s ({seen}); raise --timeout-s")


def _infos(address: str, state: Mapping[str, Any], *, key: str | None) -> list[dict[str, Any]]:
    """The model info of the replicas; empty if one of them is unhealthy or does not respond."""
    deployments = state.get("deployments", {}).values()
    num_replicas = sum(len(deployment.get("replicas", ())) for deployment in deployments)
    if any(deployment.get("status") != "HEALTHY" for deployment in deployments):
        return []
    try:
        num_requests = 1 if num_replicas == 1 else NUM_VERSION_CHECKS * num_replicas
        return [read_json(address, key=key) for _ in range(num_requests)]
    except (OSError, Failure):
        return []


def _serves(info: Mapping[str, Any], model: PinnedModel) -> bool:
    """Whether a replica serves the model; raises Failure if it has rejected it."""
    failed = info.get("last_failed_reload")
    if info["digest"] == model.digest and info["version"] == model.version:
        return True
    if failed and failed["version"] == model.version:
        raise Failure(f"a replica rejected version {model.version}: {failed['error']}")
    return False


def _check_golden(family: Family, expected: Mapping[str, Any], url: str, *, key: str | None = None) -> None:
    """Send the golden request over HTTP; raises Failure if the answer differs from the stored one."""
    address = f"{url}{family.endpoints[0].path}"
    try:
        answer = read_file(address, expected["request"], key=key)
    except OSError as error:
        raise Failure(f"{address} does not respond: {error}") from error
    is_file = issubclass(family.endpoints[0].Response, Media)
    difference = golden.difference(expected, golden.as_json(answer) if is_file else json.loads(answer.content))
    if difference:
        raise Failure(f"{address} does not return the golden answer: {difference}")


def _roll_back(api: ServeApi, before: Mapping[str, Any] | None, options: Options) -> None:
    """Reapply the previous config; a failure is only logged, as the original error matters more."""
    try:
        api.apply(before or empty_config(host=options.host, port=options.port))
    except Failure as error:
        log.error("could not roll back to the previous config: %s", error)


def _prune(store: Store, family: Family, *configs: Mapping[str, Any] | None) -> None:
    """Delete the pinned models and indexes of a family that no config refers to; they are rebuilt when needed."""
    served = [user_config(config, family) for config in configs]
    named = {each.get(key) for each in served for key in ("bundle", "index")}
    for kind in (store.root / PINNED, store.serve / "indexes"):
        for directory in (kind / family.name).glob("[!.]*"):
            if str(directory) in named:
                continue
            try:
                remove_directory(directory)
            except OSError as error:  # does not affect the deployment
                log.warning("could not delete %s, which is no longer needed: %s", directory, error)


def _served_version(config: Mapping[str, Any] | None, family: Family) -> str | None:
    return user_config(config, family).get("version")


def _reason(state: Mapping[str, Any]) -> str:
    """The last lines of Serve's messages, without its log of retries."""
    deployments: list[Mapping[str, Any]] = list(state.get("deployments", {}).values())
    messages: list[str] = [state.get("message", ""), *(str(one.get("message", "")) for one in deployments)]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return " | ".join(lines[-4:]) or str(state.get("status"))
