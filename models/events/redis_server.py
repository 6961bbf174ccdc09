"""The server of an event store on Redis: its address, its promises about durability, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from models.errors import EventsUnavailable

CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 2.0
SYNC_TIMEOUT_S = 5.0
"""How long an acknowledgement waits for disks and replicas; `everysec` syncs each second, later on a busy disk."""
NUM_RETRIES = 1
"""A pooled connection may be a dead one of a server that was restarted since; every command may be sent twice."""
EVERYSEC = "everysec"
_OUR_SETTINGS = ("accept", "replicas", "prefix", "password_file")


@dataclass(frozen=True)
class Address:
    """The address of a Redis server and what is said there of the store."""

    url: str
    """For redis-py, with the password."""
    shown: str
    """For people and logs, without it."""
    accepts_everysec: bool = False
    """Whether what was acknowledged in the last two seconds may be lost when the host loses power."""
    num_replicas: int = 0
    """Replicas that must have an event before it is acknowledged."""
    prefix: str = "shopkeeper"
    """Begins all keys, so that several shops can share a database."""
    password_file: str = ""
    """A file with the password, which then stands neither in the config of the deployment nor in Ray's dashboard."""


@dataclass(frozen=True)
class Durability:
    """What an acknowledgement waits for after a write."""

    waits_for_disk: bool
    """Until the server's own append-only file is synced, by WAITAOF."""
    num_replicas: int

    @property
    def command(self) -> tuple[Any, ...] | None:
        """The command to send after a write; None where the server syncs each write before it answers."""
        timeout_ms = int(SYNC_TIMEOUT_S * 1000)
        if self.waits_for_disk:
            return ("WAITAOF", 1, self.num_replicas, timeout_ms)
        return ("WAIT", self.num_replicas, timeout_ms) if self.num_replicas else None

    def is_met(self, reply: Any) -> bool:
        """Whether the reply to the command says that the write is durable."""
        if self.waits_for_disk:
            return int(reply[0]) >= 1 and int(reply[1]) >= self.num_replicas
        return int(reply) >= self.num_replicas


def parse_address(text: str) -> Address:
    """Raises ValueError, without the password, for an address that is not one of Redis or has an unknown setting."""
    parts = urlsplit(text)
    shown = shown_address(text)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError(f"{shown!r} is not the address of an event store; write redis://HOST:PORT/DB or rediss://...")
    if not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ValueError(f"{shown!r}: the database {parts.path[1:]!r} is no number; write redis://HOST:PORT/0")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = {name: query.pop(name) for name in _OUR_SETTINGS if name in query}
    if ours.get("accept", EVERYSEC) != EVERYSEC:
        raise ValueError(f"{shown!r}: accept={ours['accept']} is unknown; use accept={EVERYSEC}, or leave it out")
    if not ours.get("replicas", "0").isdecimal():
        raise ValueError(f"{shown!r}: replicas={ours['replicas']} is no number; use e.g. replicas=1")
    url = urlunsplit(parts._replace(query=urlencode(query)))
    prefix = ours.get("prefix") or Address.prefix
    num_replicas, password_file = int(ours.get("replicas", "0")), ours.get("password_file", "")
    return Address(url, shown, "accept" in ours, num_replicas, prefix, password_file)


def shown_address(text: str) -> str:
    """An address without user and password, wherever they stand."""
    parts = urlsplit(text)
    query = [(name, "***" if name in ("password", "username") else value) for name, value in parse_qsl(parts.query)]
    netloc = f"***@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/:")))


class Server:
    """A client for any number of threads, which connects when it is used; errors are EventsUnavailable."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        """Raises ValueError if redis-py is missing."""
        self.address = address
        self._client: Any = _client(address, timeout_s=timeout_s)

    def call(self, *words: Any) -> Any:
        """The reply to a command."""
        with _typed(self.address):
            return self._client.execute_command(*words)

    def call_in_turn(self, *commands: Sequence[Any]) -> list[Any]:
        """The replies to several commands, which are sent at once over one connection."""
        with _typed(self.address), self._client.pipeline(transaction=False) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            replies: list[Any] = pipeline.execute()
            return replies

    def may_call(self, *words: Any) -> tuple[Any, str]:
        """The reply to a command, or None and why the server refuses it, as managed ones do with some."""
        import redis.exceptions as errors

        with _typed(self.address):
            try:
                return self._client.execute_command(*words), ""
            except errors.AuthenticationError:
                raise
            except errors.ResponseError as error:
                return None, _reason(error)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def check_durability(server: Server) -> Durability:
    """What an acknowledgement has to wait for; raises EventsUnavailable for a server that could lose events.

    `appendfsync always` syncs before it answers. With `everysec` the answer comes first: WAITAOF of Redis 7.2 waits for
    the sync; without it, a power loss takes the events of the last two seconds, which must be accepted in the address.
    """
    address = server.address
    memory, persistence = server.call("INFO", "memory"), server.call("INFO", "persistence")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if int(memory.get("maxmemory", 0)) and policy.startswith("allkeys"):
        raise _refused(address, f"evicts keys when it is full (maxmemory-policy {policy})", "set it to noeviction")
    if not int(persistence.get("aof_enabled", 0)):
        raise _refused(
            address,
            "keeps events in memory only (appendonly no)",
            "run `CONFIG SET appendonly yes` and `CONFIG SET appendfsync always`, and set both in redis.conf",
        )
    fsync = _fsync_policy(server)
    if fsync == "always":
        return Durability(waits_for_disk=False, num_replicas=address.num_replicas)
    if fsync == EVERYSEC and _has_waitaof(server):
        return Durability(waits_for_disk=True, num_replicas=address.num_replicas)
    if fsync in (EVERYSEC, None) and address.accepts_everysec:
        return Durability(waits_for_disk=False, num_replicas=address.num_replicas)
    found = "does not say when it syncs" if fsync is None else f"acknowledges before it syncs (appendfsync {fsync})"
    loss = f", or accept with ?accept={EVERYSEC} that a power loss takes the last two seconds" if fsync != "no" else ""
    raise _refused(address, found, f"run `CONFIG SET appendfsync always` and set it in redis.conf{loss}")


def _client(address: Address, *, timeout_s: float) -> Any:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise ValueError(
            f"the event store at {address.shown} needs the package redis: pip install 'shopkeeper[redis]'"
        ) from None
    try:
        client = redis.Redis.from_url(
            address.url,
            **_password(address),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), NUM_RETRIES),
            health_check_interval=30,
        )
        client.connection_pool.make_connection()  # does not connect yet, but knows the settings of the address
    except (ValueError, TypeError) as error:
        raise ValueError(f"{address.shown!r} is not the address of a Redis server: {error}") from None
    return client


def _password(address: Address) -> dict[str, Any]:
    """The password of the file that the address names, as a setting of redis-py; raises EventsUnavailable."""
    if not address.password_file:
        return {}
    try:
        return {"password": Path(address.password_file).read_text(encoding="utf-8").strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise _unavailable(address, f"needs a password from a file that cannot be read: {error}", 60) from None


@contextmanager
def _typed(address: Address) -> Iterator[None]:
    """Turns the errors of redis-py into EventsUnavailable, without the password."""
    import redis.exceptions as errors

    try:
        yield
    except errors.AuthenticationError:
        raise _unavailable(address, "refuses the user or password; correct the address", 60) from None
    except errors.BusyLoadingError:
        raise _unavailable(address, "is loading its data; try again", 5) from None
    except errors.ReadOnlyError:
        raise _unavailable(address, "is a replica, which takes no events; name the primary", 10) from None
    except errors.OutOfMemoryError:
        raise _unavailable(address, "is full; raise its maxmemory", 30) from None
    except errors.TimeoutError:
        raise _unavailable(address, "does not answer in time; check the server and the network", 5) from None
    except errors.ConnectionError as error:
        raise _unavailable(address, f"cannot be reached: {_reason(error)}; start the server", 5) from None
    except errors.RedisError as error:
        raise _unavailable(address, f"cannot be used: {_reason(error)}; see the log of the server", 30) from None


def _unavailable(address: Address, what: str, retry_after_s: int) -> EventsUnavailable:
    return EventsUnavailable(f"the event store at {address.shown} {what}", retry_after_s=retry_after_s)


def _refused(address: Address, what: str, remedy: str) -> EventsUnavailable:
    return _unavailable(address, f"is not used, as acknowledged events could be lost: it {what}; {remedy}", 60)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _fsync_policy(server: Server) -> str | None:
    """The setting appendfsync; None where the server does not tell."""
    found, _ = server.may_call("CONFIG GET", "appendfsync")
    return {_text(name): _text(value) for name, value in (found or {}).items()}.get("appendfsync")


def _has_waitaof(server: Server) -> bool:
    version = str(server.call("INFO", "server").get("redis_version", "0"))
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) >= (7, 2)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
