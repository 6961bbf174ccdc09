"""`shopkeeper rollback FAMILY`: restores the previous champion, in the registry and at the endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import running_head
from jobs.deploy import build_index, load_checked, pin
from jobs.serving.access import ensure_internal_key, internal_key
from jobs.serving.api import ServeApi
from jobs.serving.config import (
    PinnedModel,
    config_path,
    next_standby,
    read_config,
    user_config,
    with_settings,
    write_config,
)
from jobs.serving.port import reserved
from jobs.serving.switch import Acceptance, Endpoint, endpoint_url, switch
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import LocatedModel, locate_model
from jobs.tracking.registry import CHAMPION, TAG_PREVIOUS, Registry
from models.family import Family

TAG_RESTORED_FROM = "restored_from"
"""Tag of a version that a rollback restored: the version that it replaced, to which the next rollback returns."""


@dataclass(frozen=True)
class Options:
    """The reason for the rollback, and the version to restore."""

    reason: str | None = None
    """Reason for the rollback; stored with the version that it replaces."""
    to: str | None = None
    """Version to restore, a former champion; unset is the one before, and after a rollback the one that it replaced."""
    timeout_s: float = 60.0
    """Seconds to wait for the endpoint to serve the restored version, before it stays at what it serves."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Make the endpoint serve the previous champion, then move the alias back; a failure leaves both as they were.

    Raises UsageFailure if there is no previous champion. The endpoint comes first, as it is what hurts; if the alias
    cannot be moved then, the same command goes on where it was.
    """
    assert family is not None
    tracking = Tracking(context)
    tracking.deliver_spool()
    registry = Registry(tracking)
    current, previous = _versions(context, registry, family, options)
    # Raises if the previous champion cannot be loaded.
    located = locate_model(context, f"models:/{family.name}/{previous}", tracking=tracking)
    endpoint = _serve(context, family, located, timeout_s=options.timeout_s)
    registry.set_alias(family.name, CHAMPION, previous)
    log.info("models:/%s@%s is version %s again", family.name, CHAMPION, previous)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    registry.set_version_tags(
        family.name, current, {"rolled_back": now, "rolled_back_to": previous, "rollback_reason": options.reason or ""}
    )
    registry.set_version_tags(family.name, previous, {TAG_RESTORED_FROM: current})
    details = {"version": previous, "previous_version": current, "endpoint": endpoint}
    return Outcome(status="rolled back", run_id=located.run_id, details=details)


def _versions(context: Context, registry: Registry, family: Family, options: Options) -> tuple[str, str]:
    """The champion and the version to restore; raises UsageFailure if there is none."""
    current = registry.get_alias(family.name, CHAMPION)
    if current is None:
        promote = context.command(f"promote {family.name}")
        raise UsageFailure(f"{family.name} has no champion; `{promote}` makes one")
    if options.to is not None:
        if options.to == current:
            raise UsageFailure(f"--to {options.to} is the champion of {family.name}; name another version")
        if "promoted" not in registry.version_info(family.name, options.to).tags:
            deploy = context.command(f"deploy {family.name} --model models:/{family.name}/{options.to}")
            raise UsageFailure(f"--to {options.to} was never a champion of {family.name}; `{deploy}` serves it")
        return current, options.to
    tags = registry.version_info(family.name, current).tags
    if restored_from := tags.get(TAG_RESTORED_FROM):
        log.warning(
            "version %s was restored by a rollback from version %s: returning to it; --to names another version",
            *(current, restored_from),
        )
    previous = restored_from or tags.get(TAG_PREVIOUS)
    if not previous:
        raise UsageFailure(f"version {current} is the first champion of {family.name}; there is no previous one")
    return current, previous


def _serve(context: Context, family: Family, located: LocatedModel, *, timeout_s: float) -> dict[str, Any]:
    """Make the endpoint serve a model, if the family is deployed from this store; returns what was done.

    The replicas have the previous model in memory. It reads the feature store as it is: features depend on the family
    and the prepared data, and name items by their ids, not on the model.
    """
    path = config_path(context.store)
    before = read_config(path)
    if before is None or not user_config(before, family):
        return {"status": "not deployed"}
    with reserved(context.store, before["http_options"]["port"]) if context.address is None else nullcontext():
        before = read_config(path) or before  # another deployment may just have ended
        served, model = user_config(before, family), pin(context.store, family, located)
        found = {"version": model.version, "previous_version": served["version"]}
        if (served["version"], served.get("digest")) == (model.version, model.digest):
            return {**found, "status": "unchanged"}
        wanted = _target(context, family, model, before)
        ensure_internal_key(context.store)
        api = _api(context)
        if api is None:
            write_config(path, wanted)
            deploy = context.command(f"deploy {family.name}")
            log.warning("the cluster of this store is not running; `%s` serves version %s", deploy, model.version)
            return {**found, "status": "not running"}
        url = endpoint_url(context, api.dashboard_url, before["http_options"])
        endpoint = Endpoint(api, url, path, key=internal_key(context.store))
        # The stores stay the same, so that a fault of theirs is no reason to keep a bad model.
        acceptance = Acceptance(_golden(model), timeout_s=timeout_s, allows_degraded=True)
        switch(*(endpoint, family, model), wanted=wanted, before=before, acceptance=acceptance)
    log.info("%s version %s is served at %s again", family.name, model.version, endpoint.url)
    return {**found, "status": "switched", "url": endpoint.url}


def _target(context: Context, family: Family, model: PinnedModel, before: Mapping[str, Any]) -> dict[str, Any]:
    """The config that serves a model, and keeps the one that was served as its standby."""
    served = user_config(before, family)
    standby = served.get("standby") or {}
    if (standby.get("version"), standby.get("digest")) == (model.version, model.digest):
        index = standby.get("index")
    else:
        index = build_index(context.store, family, load_checked(family, model.directory))
    settings = {"version": model.version, "bundle": str(model.directory), "digest": model.digest}
    replaced = next_standby(served, version=model.version, digest=model.digest)
    return with_settings(before, family, {**settings, "index": str(index) if index else None, "standby": replaced})


def _api(context: Context) -> ServeApi | None:
    """Serve on the cluster at --address, or on the store's own; None if that is not running."""
    if context.address is None and running_head(context.store) is None:
        return None
    return ServeApi(*dashboard(context))


def _golden(model: PinnedModel) -> dict[str, Any]:
    path = Path(model.directory) / "golden.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is not JSON ({error}); the version cannot be served") from error
    return content
