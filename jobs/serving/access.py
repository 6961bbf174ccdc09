"""Who may use the endpoint of a store: the settings that `deploy` renders, and the key that verbs themselves use."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure, Store, UsageFailure, log
from models.files import write_text
from models.keys import INTERNAL, KEY_FILE_MODE, Key, Keys, KeysUnreadable, make_key, read_keys, write_keys

KEEP_ENDED_S = 30 * 24 * 3600.0
"""How long `keys list` shows a key that has ended."""


NONE = "none"
"""The value of --request-log without one."""
DEFAULT_SAMPLE = 0.01


@dataclass(frozen=True)
class Access:
    """The flags of `deploy` that say who may use the endpoint and what is noted of it."""

    host: str
    unguarded: bool = False
    request_log: str | None = None
    request_log_sample: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests without a key are meant to be answered: from this machine, or if the user says so."""
        return self.unguarded or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost counts as reachable from others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def kept_access(wanted: Access, before: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Access:
    """What is wanted, and where that is not said what the config and the settings of the last deployment say."""
    former_host = before["http_options"]["host"] if before else None
    was_unguarded = settings.get("requires_keys") is False and former_host == wanted.host
    request_log = settings.get("request_log") if wanted.request_log is None else wanted.request_log
    sample = wanted.request_log_sample
    return Access(
        wanted.host,
        unguarded=wanted.unguarded or was_unguarded,
        request_log=None if request_log == NONE else request_log,
        request_log_sample=settings.get("request_log_sample") if sample is None else sample,
    )


def check_guarded(context: Context, access: Access) -> None:
    """Raise UsageFailure for an endpoint that other machines could use without a key."""
    if access.is_open or _read(context.store) is not None:
        return
    create = context.command("keys create NAME --scopes read")
    raise UsageFailure(
        f"--host {access.host} lets other machines use the endpoint, and there is no API key; run `{create}` first, "
        "or add --unguarded if a gateway of yours is all that reaches it"
    )


def access_settings(store: Store, access: Access) -> dict[str, Any]:
    """The part of a deployment's settings that is about access; see `serve.access.settings`."""
    requires_keys = _read(store) is not None or not access.is_open
    log_path = Path(access.request_log).absolute() if access.request_log else None
    return {
        "keys": str(store.keys),
        "requires_keys": requires_keys,
        "metrics": str(store.serve / "metrics"),
        "cluster": str(store.cluster / "cluster.json"),
        "request_log": str(log_path) if log_path else None,
        "request_log_sample": DEFAULT_SAMPLE if access.request_log_sample is None else access.request_log_sample,
        "salt": str(store.salt),
    }


def internal_key(store: Store) -> str | None:
    """The API key of our own verbs; None where there are no keys, or where this user may not read it."""
    try:
        return store.internal_key.read_text(encoding="utf-8").strip() if store.keys.is_file() else None
    except OSError:
        return None


@contextmanager
def changed_keys(store: Store) -> Iterator[dict[str, Key]]:
    """The keys of a store by id, to be changed in the block and written at its end; one change at a time.

    Whenever there are keys, there is an internal one.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(store.root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        keys = _read(store)
        by_id = dict(keys.by_id) if keys is not None else {}
        yield by_id
        _forget_ended(by_id)
        _keep_internal(store, by_id)
        write_keys(store.keys, by_id.values())
    finally:
        os.close(descriptor)


def ensure_internal_key(store: Store) -> None:
    """Replace the internal key if there are keys and its file was lost."""
    keys = _read(store)
    if keys is not None and not _is_known(store, keys.by_id):
        with changed_keys(store):
            log.info("made a new internal API key, as %s was not valid", store.internal_key)


def _forget_ended(by_id: dict[str, Key]) -> None:
    for key in list(by_id.values()):
        if not key.is_valid(time.time() - KEEP_ENDED_S):
            del by_id[key.id]


def _keep_internal(store: Store, by_id: dict[str, Key]) -> None:
    if _is_known(store, by_id):
        return
    for former in [key.id for key in by_id.values() if key.name == INTERNAL]:
        del by_id[former]
    key, secret = make_key(INTERNAL, scopes=["read"], taken=by_id)
    write_text(store.internal_key, f"{secret}\n", mode=KEY_FILE_MODE)
    by_id[key.id] = key


def _is_known(store: Store, by_id: dict[str, Key]) -> bool:
    try:
        return Keys(by_id).find(store.internal_key.read_bytes().strip()) is not None
    except OSError:
        return False


def _read(store: Store) -> Keys | None:
    try:
        return read_keys(store.keys)
    except KeysUnreadable as error:
        raise Failure(str(error)) from error
