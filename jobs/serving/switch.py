"""Switches what a cluster serves for a family, and back if the new model does not answer as it should."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.cli.context import Context, Failure, log
from jobs.serving.api import ServeApi, read_file, read_json
from jobs.serving.config import PinnedModel, user_config, write_config
from jobs.serving.port import ALL_INTERFACES, local_url
from jobs.serving.state import degraded, num_replicas, reason
from models import golden
from models.family import Family, Media

POLL_S = 0.25
NUM_VERSION_CHECKS = 4
"""Version requests per replica, on new connections, so that very likely each replica responds once."""
DEGRADED_S = 5.0
"""How long a store may be unreadable: a replica that noticed it before the store was mended tries it again."""


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of a cluster."""

    api: ServeApi
    url: str
    """As seen from this machine."""
    config_path: Path
    """Where the config is kept that was applied last."""
    key: str | None = None
    """API key for what is asked there."""


@dataclass(frozen=True)
class Acceptance:
    """What a new deployment has to show, and by when."""

    golden: Mapping[str, Any]
    """The golden request and its answer."""
    timeout_s: float
    """For every replica to serve the model."""
    allows_degraded: bool = False
    """Whether it may be degraded, such as without its feature store."""


def switch(
    endpoint: Endpoint,
    family: Family,
    model: PinnedModel,
    *,
    wanted: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    acceptance: Acceptance,
) -> None:
    """Apply a config and keep it, once every replica serves the model and its golden answer comes by HTTP.

    On any failure the config before is applied again, and what it served goes on.
    """
    try:
        endpoint.api.apply(wanted)
        wait_until_served(*(endpoint.api, family, model), url=endpoint.url, acceptance=acceptance, key=endpoint.key)
        check_golden(family, acceptance.golden, endpoint.url, key=endpoint.key)
        write_config(endpoint.config_path, wanted)  # if the disk is full, the two must not differ
    except BaseException as error:
        _switch_back(endpoint.api, before or {**wanted, "applications": []})
        if isinstance(error, Failure):
            previous = user_config(before, family).get("version")
            error.args = (f"{error}; {f'version {previous} keeps serving' if previous else 'it was removed again'}",)
        raise


def endpoint_url(context: Context, dashboard_url: str, http_options: Mapping[str, Any]) -> str:
    """URL of the endpoint as seen from this machine."""
    host, port = http_options["host"], http_options["port"]
    if context.address is not None and host in ALL_INTERFACES:
        return f"http://{urlsplit(dashboard_url).hostname or host}:{port}"
    return local_url(host, port)


def wait_until_served(
    api: ServeApi,
    family: Family,
    model: PinnedModel,
    *,
    url: str,
    acceptance: Acceptance,
    key: str | None = None,
) -> None:
    """Wait until the application is running and every replica reports the model; raises Failure."""
    address, timeout_s = f"{url}{family.models_path}", acceptance.timeout_s
    deadline = time.monotonic() + timeout_s
    degraded_since_s: float | None = None
    seen = "no response"
    while time.monotonic() < deadline:
        state = api.details()["applications"].get(family.name, {})
        status = state.get("status", "not started")
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise Failure(f"version {model.version} did not start: {reason(state)}")
        infos = _infos(address, state, key=key) if status == "RUNNING" else []
        seen = f"version {', '.join(sorted({info['version'] for info in infos}))} is served" if infos else seen
        if infos and all(_serves(info, model) for info in infos):
            fault = None if acceptance.allows_degraded else degraded(infos)
            if fault is None:
                return
            seen, degraded_since_s = f"degraded: {fault}", degraded_since_s or time.monotonic()
            if time.monotonic() - degraded_since_s > DEGRADED_S:
                raise Failure(f"version {model.version} is degraded: {fault}")
        time.sleep(POLL_S)
    raise Failure(f"version {model.version} did not respond within {timeout_s:.0f} s ({seen}); raise --timeout-s")


def check_golden(family: Family, expected: Mapping[str, Any], url: str, *, key: str | None = None) -> None:
    """Send the golden request over HTTP; raises Failure if the answer differs from the stored one."""
    address = f"{url}{family.endpoints[0].path}"
    try:
        # The golden answer knows no live items.
        answer = read_file(address, expected["request"], key=key, headers={"Shopkeeper-Prepared-Only": "1"})
    except OSError as error:
        raise Failure(f"{address} does not respond: {error}") from error
    is_file = issubclass(family.endpoints[0].Response, Media)
    difference = golden.difference(expected, golden.as_json(answer) if is_file else json.loads(answer.content))
    if difference:
        raise Failure(f"{address} does not return the golden answer: {difference}")


def _infos(address: str, state: Mapping[str, Any], *, key: str | None) -> list[dict[str, Any]]:
    """The model info of the replicas; empty if one of them is unhealthy or does not respond."""
    count = num_replicas(state)
    if any(deployment.get("status") != "HEALTHY" for deployment in state.get("deployments", {}).values()):
        return []
    try:
        return [read_json(address, key=key) for _ in range(1 if count == 1 else NUM_VERSION_CHECKS * count)]
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


def _switch_back(api: ServeApi, before: Mapping[str, Any]) -> None:
    """Reapply the previous config; a failure is only logged, as the original error matters more."""
    try:
        api.apply(before)
    except Failure as error:
        log.error("could not go back to the previous config: %s", error)
