"""Who may use the endpoint of a store: the settings that `deploy` renders, and the key that verbs themselves use."""

from __future__ import annotations

import fcntl
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Context, Failure, Store, UsageFailure, log
from models.files import write_text
from models.keys import INTERNAL, KEY_FILE_MODE, Key, Keys, KeysUnreadable, make_key, read_keys, write_keys


@dataclass(frozen=True)
class Access:
    """Flags of `deploy` that say who may use the endpoint and what is noted of it."""

    unguarded: bool = False
    """Accept requests without an API key from other machines too, as behind a gateway that checks its own."""
    request_log: str | None = None
    """Directory, or file with a suffix, for a log of a sample of the requests: JSON lines without bodies, ids hashed."""
    request_log_sample: float = 0.01
    """Share of the requests that --request-log writes, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.request_log_sample <= 1.0:
            raise ValueError(
                f"--request-log-sample {self.request_log_sample} is not a share; use 0 to 1, such as 0.01"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost counts as reachable from others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_guarded(context: Context, host: str, access: Access) -> None:
    """Raise UsageFailure for an endpoint that other machines could use without a key."""
    if is_loopback(host) or access.unguarded or _read(context.store) is not None:
        return
    create = context.command("keys create NAME --scopes read")
    raise UsageFailure(
        f"--host {host} lets other machines use the endpoint, and there is no API key; run `{create}` first, "
        "or add --unguarded if a gateway of yours is all that reaches it"
    )


def access_settings(store: Store, host: str, access: Access) -> dict[str, Any]:
    """The part of a deployment's settings that is about access; see `serve.access.settings`."""
    requires_keys = _read(store) is not None or not (is_loopback(host) or access.unguarded)
    log_path = Path(access.request_log).absolute() if access.request_log else None
    return {
        "keys": str(store.keys),
        "requires_keys": requires_keys,
        "metrics": str(store.serve / "metrics"),
        "cluster": str(store.cluster / "cluster.json"),
        "request_log": str(log_path) if log_path else None,
        "request_log_sample": access.request_log_sample,
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
