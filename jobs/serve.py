"""`shopkeeper serve`: serves what was deployed last, in the foreground, and brings it back after a crash."""

from __future__ import annotations

import errno
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import running_head, stop_head
from jobs.serving.api import ServeApi
from jobs.serving.config import config_path, read_config
from jobs.serving.foreground import alone
from jobs.serving.port import check_can_start, local_url, reserved
from models.family import Family

POLL_S = 1.0
REQUEST_TIMEOUT_S = 5.0
REFUSED_TIMEOUT_S = 15.0
"""For Ray to bring back its proxy by itself, before the whole cluster is started again."""
LONG_LIFE_S = 60.0
"""A cluster that lived this long is started again at once; after shorter lives the pauses grow."""
PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
FINAL = ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True)
class Options:
    """How long to wait for the endpoint."""

    timeout_s: float = 180.0
    """Seconds to wait for the models to be served before the cluster is started again."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"--timeout-s {self.timeout_s} is not a duration; use more than 0, such as 180")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Serve until SIGTERM or Ctrl-C, then stop; raises Failure if the first start fails."""
    if context.address is not None:
        raise UsageFailure(f"serve works on this machine only; omit --address {context.address}")
    _config(context)
    with alone(context.store):
        try:
            with suppress(KeyboardInterrupt):  # SIGTERM is one too
                _keep_up(context, options.timeout_s)
        finally:
            log.info("stopping the endpoint and the local cluster")
            stop_head(context.store)
    return Outcome(status="stopped")


def _keep_up(context: Context, timeout_s: float) -> None:
    """Bring the endpoint up again and again; raises Failure only if the first attempt fails."""
    num_short_lives, has_been_up = 0, False
    while True:
        began_s = time.monotonic()
        try:
            url = _bring_up(context, timeout_s)
            has_been_up = True
            log.info("%s is up after %.0f s", url, time.monotonic() - began_s)
            reason = _until_down(context, url)
        except (Failure, OSError) as error:
            if not has_been_up:
                raise
            reason = f"the endpoint could not be brought up: {error}"
        lived_long = time.monotonic() - began_s > LONG_LIFE_S
        num_short_lives = 0 if lived_long else min(num_short_lives + 1, len(PAUSES_S) - 1)
        pause_s = PAUSES_S[max(0, num_short_lives - 1)]
        log.error("%s; starting the cluster again%s", reason, f" in {pause_s:.0f} s" if pause_s else "")
        time.sleep(pause_s)
        stop_head(context.store)  # what is left of it


def _bring_up(context: Context, timeout_s: float) -> str:
    """Start the cluster if it does not run and serve what was deployed last; returns the URL of the endpoint."""
    http = _config(context)["http_options"]
    with reserved(context.store, http["port"]):
        config = _config(context)  # a deployment that was waited for may have changed it
        check_can_start(context.store, http["host"], http["port"])
        api = ServeApi(*dashboard(context))
        api.apply(config)
        _wait_until_started(api, [each["name"] for each in config["applications"]], timeout_s)
    return local_url(http["host"], http["port"])


def _wait_until_started(api: ServeApi, names: list[str], timeout_s: float) -> None:
    """Wait until each application runs or has failed, which is logged; raises Failure if none runs."""
    deadline = time.monotonic() + timeout_s
    states: dict[str, Mapping[str, Any]] = {}
    while time.monotonic() < deadline:
        applications = api.details()["applications"]
        states = {name: applications.get(name, {}) for name in names}
        if all(state.get("status") in FINAL for state in states.values()):
            break
        time.sleep(POLL_S)
    statuses = {name: state.get("status", "not started") for name, state in states.items()}
    for name, status in statuses.items():
        if status != "RUNNING":
            log.error("%s is not served (%s): %s", name, status, states[name].get("message", ""))
    if "RUNNING" not in statuses.values():
        raise Failure(f"no family is served after {timeout_s:.0f} s at most: {statuses}; raise --timeout-s")


def _until_down(context: Context, url: str) -> str:
    """Watch cluster and endpoint; returns why they have to be started again."""
    refused_since_s: float | None = None
    was_ready = True
    while True:
        time.sleep(POLL_S)
        if running_head(context.store) is None:
            return "the local cluster has died"
        answered, is_ready = _check(url)
        if answered:
            refused_since_s = None
        elif refused_since_s is None:
            refused_since_s = time.monotonic()
            log.warning("%s refuses connections; waiting for Ray to start its proxy again", url)
        elif time.monotonic() - refused_since_s > REFUSED_TIMEOUT_S:
            return f"{url} has refused connections for {REFUSED_TIMEOUT_S:.0f} s"
        if answered and is_ready != was_ready:
            log.warning("%s %s", url, "is ready again" if is_ready else "has no replica that is ready")
            was_ready = is_ready


def _check(url: str) -> tuple[bool, bool]:
    """Whether something listens at the endpoint, and whether it has a replica that is ready."""
    try:
        with urllib.request.urlopen(f"{url}/-/healthz", timeout=REQUEST_TIMEOUT_S):
            return True, True
    except urllib.error.HTTPError:
        return True, False
    except OSError as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return getattr(cause, "errno", None) != errno.ECONNREFUSED, False


def _config(context: Context) -> dict[str, Any]:
    """What was deployed last; raises UsageFailure if nothing is."""
    config = read_config(config_path(context.store))
    if config is None or not config["applications"]:
        raise UsageFailure(
            f"nothing is deployed in {context.store.root}; `{context.command('deploy FAMILY')}` deploys the champion "
            "of a family, and `serve` keeps that up from then on"
        )
    return config
