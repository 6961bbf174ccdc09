"""API keys of a store: who may do what at its endpoint; the file holds hashes, no secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.files import write_text

Scope = Literal["read", "events", "erase", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a key may be good for; none implies another."""
PREFIX = "shopkeeper"
"""The first part of every key, by which scanners of leaked secrets can find it."""
NUM_SECRET_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
INTERNAL = "shopkeeper"
"""Name of the key of our own verbs, which ask the endpoint for its model and the golden answer."""
KEY_FILE_MODE = 0o600


class KeysUnreadable(ValueError):
    """A key file that cannot be read; the message names it and the remedy."""


class Key(BaseModel):
    """A key as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    """In the clear in the key itself, in lists and in logs."""
    name: str
    """Several keys of one name are one client's while it replaces the old one by the new one."""
    scopes: frozenset[Scope]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole key. No slow hash: 32 random bytes cannot be guessed, at any speed, and a slow hash of every request
    would let strangers keep the endpoint busy with wrong keys."""
    created_s: float
    """Epoch seconds."""
    ends_s: float | None = None
    """Epoch seconds from which it is refused; None for a key without an end."""
    requests_per_s: float | None = Field(default=None, gt=0)
    """The rate limit of all keys of this name together; None for no limit."""

    def is_valid(self, now_s: float) -> bool:
        """Whether it has not ended."""
        return self.ends_s is None or now_s < self.ends_s


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[Key]


@dataclass(frozen=True)
class Keys:
    """The keys of a store."""

    by_id: dict[str, Key]

    def find(self, given: bytes) -> Key | None:
        """The key that a client has sent, even if it has ended; None if there is no such key."""
        parts = given.split(b"_", 2)
        if len(parts) != 3:
            return None
        key = self.by_id.get(parts[1].decode("latin-1"))
        # In constant time: how much of a hash is right must not be told by how long the refusal takes.
        if key is None or not hmac.compare_digest(hashlib.sha256(given).hexdigest(), key.sha256):
            return None
        return key

    def of(self, name: str, *, now_s: float) -> list[Key]:
        """The valid keys of a name, oldest first."""
        return sorted(
            (key for key in self.by_id.values() if key.name == name and key.is_valid(now_s)),
            key=lambda key: key.created_s,
        )


def make_key(
    name: str,
    *,
    scopes: Iterable[Scope],
    requests_per_s: float | None = None,
    taken: Iterable[str] = (),
    created_s: float | None = None,
) -> tuple[Key, str]:
    """A new key with an id that is not among the `taken` ones, and its secret, which is stored nowhere."""
    used = set(taken)
    identifier = next(new for new in iter(lambda: secrets.token_hex(4), "") if new not in used)
    secret = f"{PREFIX}_{identifier}_{secrets.token_urlsafe(NUM_SECRET_BYTES)}"
    key = Key(
        id=identifier,
        name=name,
        scopes=frozenset(scopes),
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        created_s=time.time() if created_s is None else created_s,
        requests_per_s=requests_per_s,
    )
    return key, secret


def read_keys(path: Path) -> Keys | None:
    """The keys of a file, None if there is none; raises KeysUnreadable."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysUnreadable(f"{path} cannot be read ({error.strerror}); make it readable for its owner") from error
    try:
        return Keys({key.id: key for key in _File.model_validate_json(content).keys})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeysUnreadable(f"{path} is not a file of keys ({where}: {first['msg']}); restore it") from None


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Write the keys atomically, for the eyes of their owner only."""
    content = _File(keys=sorted(keys, key=lambda key: (key.name, key.created_s))).model_dump(mode="json")
    for key in content["keys"]:
        key["scopes"].sort()
    write_text(path, json.dumps(content, indent=1) + "\n", mode=KEY_FILE_MODE)
