"""Checks the API key of a request: that there is one, that it is valid, its scope, its rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import Scope as Request

from models.keys import Key, Keys, KeysUnreadable, read_keys
from serve.access.rates import Bucket, Taken
from serve.access.scopes import ANY, OPEN, Required
from serve.problems import log

LOOK_EVERY_S = 1.0
"""How often the key file is looked at for changes; an unknown key is looked for at once."""
LOG_EVERY_S = 60.0
REALM = 'Bearer realm="shopkeeper"'


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused, as status, detail and headers of a problem."""

    status: int
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Admitted:
    """A request that may go on."""

    key: Key | None = None
    """None where none is needed."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Of the response: what is left of the key's rate, if it has one."""


UNGUARDED = Admitted()


class Guard:
    """The keys of a store as one replica knows them."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, epoch_s: Callable[[], float] = time.time
    ) -> None:
        self._monotonic = monotonic
        self._epoch_s = epoch_s
        self._path: Path | None = None
        self._is_required = False
        self._keys: Keys | None = None
        self._identity: Any = None
        """What distinguishes the key file from its replacement."""
        self._look_at_s = 0.0
        self._log_at_s = 0.0
        self._buckets: dict[str, Bucket] = {}
        self.num_replicas: Callable[[], int] = lambda: 1
        """Over how many replicas a key's rate is divided."""

    def configure(self, path: Path | None, *, is_required: bool) -> None:
        """Use a key file, which may not exist; `is_required` refuses everything while there is none."""
        if path != self._path:
            self._keys, self._identity = None, None
        self._path, self._is_required = path, is_required
        self._look()

    def refresh(self) -> None:
        """Look at the key file, also where no request comes: from the first key on the endpoint is never open again."""
        if self._path is not None:
            self._look()

    @property
    def is_guarding(self) -> bool:
        """Whether requests need a key."""
        return self._is_required or self._keys is not None

    def admit(self, request: Request, required: Required) -> Admitted | Refusal:
        """Decide on an HTTP request or the handshake of a WebSocket."""
        if self._path is not None and self._monotonic() >= self._look_at_s:
            self._look()
        if required == OPEN or not self.is_guarding:
            return UNGUARDED
        given = _given(request)
        if given is None:
            return Refusal(
                401, "send an API key as `Authorization: Bearer KEY`; `shopkeeper keys create` makes one", _challenge()
            )
        key = self._find(given)
        if key is None:
            return _wrong("the API key is unknown or was revoked; ask for a new one")
        if not key.is_valid(self._epoch_s()):
            return _wrong(f"the API key {key.id} has ended; ask for a new one")
        if required != ANY and required not in key.scopes:
            return Refusal(
                403,
                f"the API key {key.id} has no scope {required!r}, only {', '.join(sorted(key.scopes))}",
                _challenge("insufficient_scope", scope=required),
            )
        return self._rated(key)

    def admit_message(self, key: Key) -> str | None:
        """Why a message on an open WebSocket is refused, None if it is not: its key is gone, or used too fast."""
        if self._monotonic() >= self._look_at_s:
            self._look()
        current = self._keys.by_id.get(key.id) if self._keys is not None else None
        if current is None or not current.is_valid(self._epoch_s()):
            return f"the API key {key.id} has ended or was revoked"
        taken = self._take(current)
        return None if taken is None or taken.is_allowed else f"more than {current.requests_per_s:g} messages/s"

    def _find(self, given: bytes) -> Key | None:
        key = self._keys.find(given) if self._keys is not None else None
        if key is None and self._look():
            return self._keys.find(given) if self._keys is not None else None
        return key

    def _rated(self, key: Key) -> Admitted | Refusal:
        taken = self._take(key)
        if taken is None:
            return Admitted(key)
        headers = _rate_headers(taken)
        if taken.is_allowed:
            return Admitted(key, tuple((name.lower().encode(), value.encode()) for name, value in headers.items()))
        wait_s = math.ceil(taken.wait_s * 100) / 100
        return Refusal(
            429,
            f"more than {key.requests_per_s:g} requests/s with the API keys of {key.name!r}; wait {wait_s:g} s",
            {**headers, "Retry-After": str(math.ceil(taken.wait_s))},
        )

    def _take(self, key: Key) -> Taken | None:
        if key.requests_per_s is None:
            return None
        now_s, rate = self._monotonic(), key.requests_per_s / max(1, self.num_replicas())
        bucket = self._buckets.get(key.name)
        if bucket is None:
            bucket = self._buckets[key.name] = Bucket(rate, now_s=now_s)
        bucket.set_rate(rate)
        return bucket.take(now_s)

    def _look(self) -> bool:
        """Read the key file if it has changed, and return whether it has.

        What cannot be read leaves the former keys in use, and a deleted file leaves none: a guarded endpoint never
        becomes an open one while it runs.
        """
        self._look_at_s = self._monotonic() + LOOK_EVERY_S
        if self._path is None or (identity := _identity(self._path)) == self._identity:
            return False
        try:
            keys = read_keys(self._path)
        except KeysUnreadable as error:
            self._is_required = True
            self._log_now_and_then("the API keys did not change: %s", error)
            return False
        if keys is None and self.is_guarding:
            self._log_now_and_then("%s is gone; all requests are refused until there are keys again", self._path)
            keys = Keys({})
        self._keys, self._identity = keys, identity
        return True

    def _log_now_and_then(self, message: str, *values: object) -> None:
        if self._monotonic() >= self._log_at_s:
            self._log_at_s = self._monotonic() + LOG_EVERY_S
            log.error(message, *values)


def _given(request: Request) -> bytes | None:
    """The bearer token of a request; None without one, and without exactly one, since the others might be checked."""
    found = [value for name, value in request["headers"] if name == b"authorization"]
    if len(found) != 1 or found[0][:7].lower() != b"bearer ":
        return None
    token: bytes = found[0][7:].strip()
    return token or None


def _wrong(detail: str) -> Refusal:
    return Refusal(401, detail, _challenge("invalid_token"))


def _challenge(error: str | None = None, *, scope: str | None = None) -> dict[str, str]:
    """The challenge of RFC 6750."""
    parts = [REALM, *([f'error="{error}"'] if error else []), *([f'scope="{scope}"'] if scope else [])]
    return {"WWW-Authenticate": ", ".join(parts)}


def _rate_headers(taken: Taken) -> dict[str, str]:
    """The fields of the IETF's draft (draft-ietf-httpapi-ratelimit-headers), for this replica's share of the rate."""
    return {
        "RateLimit-Policy": f'"key";q={taken.limit};w={math.ceil(taken.window_s)}',
        "RateLimit": f'"key";r={taken.remaining};t={math.ceil(taken.wait_s)}',
    }


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
