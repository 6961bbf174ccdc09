"""The event store of a deployment: which one it uses, and whether all its hosts can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.cli.context import Context, DependencyDown, Failure, UsageFailure, log
from jobs.cluster.connection import dashboard
from jobs.serving.api import ServeApi
from jobs.serving.config import config_path, read_config, user_config
from models.errors import EventsUnavailable
from models.events.store import open_events
from models.family import Family

NONE = "none"
"""The value of --events without a store."""


def event_address(context: Context, family: Family, given: str | None, before: Mapping[str, Any] | None) -> str | None:
    """The address of the event store that a family is to use, which is created if it does not exist.

    That of --events, else what the last deployment used, else the file of the store. Raises UsageFailure for an address
    that cannot be used, also for a file where the cluster has several hosts; Failure if the store cannot be opened.
    """
    if family.events is None:
        if given not in (None, NONE):
            raise UsageFailure(f"--events {given}: {family.name} takes no events; leave the flag out")
        return None
    own = str(context.store.events)
    address = _kept(user_config(before, family), own) if given is None else given
    if address == NONE:
        return None
    if "://" not in address:
        if address != own:
            raise UsageFailure(
                f"--events {address} is neither redis://HOST:PORT/DB nor {NONE}; without the flag it is {own}"
            )
        _check_one_host(context)
    try:
        open_events(address).close()
    except ValueError as error:
        raise UsageFailure(f"--events: {error}") from error
    except EventsUnavailable as error:
        remote = "://" in address
        raise (DependencyDown if remote else Failure)(f"not deployed: {error}") from error
    return address


def _kept(settings: Mapping[str, Any], own: str) -> str:
    """The address that a later deployment keeps; that of an earlier release is the file."""
    before = settings.get("events", own)
    if before is None:
        log.warning("events are not taken, as the last deployment said; --events %s takes them", own)
        return NONE
    # A path is that of the store, which may have been moved or be reached by another name.
    return str(before) if "://" in str(before) else own


def _check_one_host(context: Context) -> None:
    if context.address is None:
        return
    count = ServeApi(*dashboard(context)).num_hosts()
    if count > 1:
        raise UsageFailure(
            f"the cluster has {count} hosts, and SQLite, the default event store, works on one only: "
            f"deploy with --events redis://HOST:PORT/DB, or --events {NONE} to serve without events"
        )


def event_addresses(context: Context) -> list[str]:
    """The event stores of a shop: its own if there is one, then those that its deployments use."""
    config = read_config(config_path(context.store)) or {}
    used = [each["deployments"][0]["user_config"].get("events") for each in config.get("applications", ())]
    own = [str(context.store.events)] if context.store.events.is_file() else []
    return list(dict.fromkeys([*own, *(str(address) for address in used if address)]))
