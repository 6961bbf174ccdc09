"""Events in Redis: the store of a shop whose replicas run on several hosts."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from models.errors import EventsUnavailable
from models.events.event import MAX_EVENTS, SESSION, Event
from models.events.group_commit import GroupCommit
from models.events.identity import Login, belonging, logins_by_session, newest
from models.events.redis_scripts import APPEND, ERASE, OF
from models.events.redis_server import READ_TIMEOUT_S, SYNC_TIMEOUT_S, Server, check_durability, parse_address

log = logging.getLogger("shopkeeper")

FORMAT = 1
"""Version of the keys; a store of a later one is refused."""
BLOCK = 1_000
"""Events of a block of a scan."""
RECHECK_S = 60.0
"""How long the server's settings of durability are believed."""
OTHER_STORE = -1
RESTORING = "restoring"
"""A field of `meta` while a restore is under way; a store with it is refused."""


class RedisEvents:
    """An event store on a Redis server, for any number of processes and hosts; see `EventStore`."""

    def __init__(self, address: str, *, create: bool = True, is_restored: bool = False) -> None:
        """Raises ValueError for an address, EventsUnavailable for a server or a store that cannot be used.

        With `is_restored` a store that was restored in part is opened too, to be restored again.
        """
        self.address = parse_address(address)
        self.prefix = f"{{{self.address.prefix}:events}}:"
        self._reader = Server(self.address, timeout_s=READ_TIMEOUT_S)
        self._writer = Server(self.address, timeout_s=READ_TIMEOUT_S + SYNC_TIMEOUT_S)
        self._check()
        self.store_id = self._opened(create=create, is_restored=is_restored)
        self._commits = GroupCommit(self._commit, name=f"the event store at {self.address.shown}")

    def append(self, events: Sequence[Event], /) -> list[bool]:
        """See `EventStore.append`."""
        return self._commits.append(events) if events else []

    def of(self, *, user_id: str | None, session_id: str | None, after_seq: int) -> list[Event]:
        """See `EventStore.of`."""
        own, of_sessions, in_sessions, store_id = self._reader.call(
            "EVAL", OF, 1, self.prefix, user_id or "", session_id or "", after_seq, MAX_EVENTS
        )
        self.store_id = store_id.decode() if store_id else self.store_id
        events = [_event(seq, content) for seq, content in own]
        if user_id is not None:
            anonymous = [event for event in (_event(*pair) for pair in in_sessions) if event.user_id is None]
            anonymous = sorted(anonymous, key=lambda event: -event.seq)[:MAX_EVENTS]
            logins = logins_by_session(
                login for session, found in of_sessions for login in _logins(session.decode(), found)
            )
            events += belonging(user_id, anonymous, logins, after_seq=after_seq, visiting=session_id)
        return newest(events)

    def owner(self, session_id: str, /) -> str | None:
        """See `EventStore.owner`."""
        found = self._reader.call("HGETALL", f"{self.prefix}logins:{session_id}")
        logins = [_login(session_id, user, value) for user, value in found.items()]
        return max(logins, key=lambda login: (login.time_us, login.user_id)).user_id if logins else None

    def last_seq(self) -> int:
        """See `EventStore.last_seq`."""
        return int(self._reader.call("GET", f"{self.prefix}seq") or 0)

    def scan(self, *, after_seq: int, until_seq: int) -> Iterator[list[Event]]:
        """See `EventStore.scan`."""
        while True:
            entries = self._reader.call(
                "ZRANGEBYSCORE", f"{self.prefix}log", f"({after_seq}", until_seq, "WITHSCORES", "LIMIT", 0, BLOCK
            )
            if not entries:
                return
            block = [_event(seq, content) for content, seq in entries]
            yield block
            after_seq = block[-1].seq

    def erase(self, user_id: str, /) -> int:
        """See `EventStore.erase`; the append-only file, which still has the events, is rewritten in the background."""
        session_id = user_id.removeprefix(SESSION) if user_id.startswith(SESSION) else ""
        num_erased = int(self._run_durably(ERASE, [user_id, session_id]))
        if num_erased:
            self._rewrite_log()
        return num_erased

    def num_bytes(self) -> int:
        """See `EventStore.num_bytes`; without the lists of seqs by user and session, which are small."""
        return sum(int(self._reader.call("MEMORY USAGE", f"{self.prefix}{key}") or 0) for key in ("log", "ids"))

    def replace(self, store_id: str, last_seq: int, blocks: Iterator[Sequence[Event]]) -> None:
        """Replace all events by those of a backup, which keep their numbers; one that is interrupted is repeated."""
        meta, pattern = f"{self.prefix}meta", re.sub(r"([*?\[\]\\])", r"\\\1", self.prefix)
        self._writer.call("HSET", meta, RESTORING, 1, "store_id", store_id, "format", FORMAT)
        cursor = 0
        while True:
            cursor, keys = self._writer.call("SCAN", cursor, "MATCH", f"{pattern}*", "COUNT", BLOCK)
            if former := [key for key in keys if key != meta.encode()]:
                self._writer.call("UNLINK", *former)
            if not cursor:
                break
        for block in blocks:
            for start in range(0, len(block), BLOCK):
                part = _arguments(block[start : start + BLOCK])
                self._writer.call("EVAL", APPEND, 1, self.prefix, store_id, RESTORING, *part)
        self._writer.call("SET", f"{self.prefix}seq", last_seq)
        self._run_durably("return redis.call('HDEL', KEYS[1] .. 'meta', 'restoring')", [])
        self.store_id = store_id

    def close(self) -> None:
        """See `EventStore.close`."""
        self._commits.close()
        self._reader.close()
        self._writer.close()

    def _commit(self, events: Sequence[Event]) -> list[bool]:
        unnumbered = [replace(event, seq=0) for event in events]
        is_new = self._run_durably(APPEND, [self.store_id, "", *_arguments(unnumbered)])
        if is_new == OTHER_STORE:  # the server was emptied, or a backup restored
            self.store_id = self._opened(create=True)
            is_new = self._run_durably(APPEND, [self.store_id, "", *_arguments(unnumbered)])
        if is_new == OTHER_STORE:
            raise EventsUnavailable(f"the event store at {self.address.shown} was replaced; send the events again")
        return [bool(each) for each in is_new]

    def _run_durably(self, script: str, arguments: Sequence[Any]) -> Any:
        """Run a script that writes, and wait until what it wrote is durable; raises EventsUnavailable."""
        if time.monotonic() > self._checked_s + RECHECK_S:
            self._check()
        if (wait := self._durability.command) is None:
            return self._writer.call("EVAL", script, 1, self.prefix, *arguments)
        # Both on one connection: the server waits for the writes of this client.
        result, reply = self._writer.call_in_turn(("EVAL", script, 1, self.prefix, *arguments), wait)
        if not self._durability.is_met(reply):
            raise EventsUnavailable(
                f"the event store at {self.address.shown} did not sync within {SYNC_TIMEOUT_S:.0f} s; send the events "
                "again, which stores none of them twice",
                retry_after_s=5,
            )
        return result

    def _rewrite_log(self) -> None:
        """Have the server rewrite its append-only file, which still holds what was deleted."""
        _, refused = self._writer.may_call("BGREWRITEAOF")
        if refused:  # not permitted, or one is under way that began before
            message = (
                "the append-only file of %s holds erased events until it is rewritten (%s); run BGREWRITEAOF later"
            )
            log.warning(message, self.address.shown, refused)

    def _check(self) -> None:
        self._durability = check_durability(self._writer)
        self._checked_s = time.monotonic()

    def _opened(self, *, create: bool, is_restored: bool = False) -> str:
        """The id of the store, which is created if it does not exist; raises EventsUnavailable if it cannot be used."""
        key, client = f"{self.prefix}meta", self._writer
        if create:
            client.call("HSETNX", key, "format", FORMAT)
            client.call("HSETNX", key, "store_id", uuid.uuid4().hex)
        meta = {name.decode(): value.decode() for name, value in client.call("HGETALL", key).items()}
        where = f"the event store at {self.address.shown}"
        if "store_id" not in meta:
            raise EventsUnavailable(f"no event store at {self.address.shown}; `shopkeeper deploy` creates it")
        if int(meta["format"]) > FORMAT:
            raise EventsUnavailable(
                f"{where} has format {meta['format']}, and this release of Shopkeeper reads up to {FORMAT}; upgrade it",
                retry_after_s=60,
            )
        if RESTORING in meta and not is_restored:
            raise EventsUnavailable(f"{where} was restored in part only; run `shopkeeper events restore` again")
        return str(meta["store_id"])


def _arguments(events: Sequence[Event]) -> list[str | int]:
    """The arguments of APPEND for some events; those with a seq keep it."""
    found: list[str | int] = []
    for event in events:
        found += [event.event_id, event.user_id or "", event.session_id or "", event.time_us, _content(event)]
        found.append(event.seq or "")
    return found


def _content(event: Event) -> str:
    """An event as JSON, without its seq; the script that erases reads the first three values."""
    return json.dumps(event.values, ensure_ascii=False, separators=(",", ":"))


def _event(seq: bytes | float, content: bytes) -> Event:
    return Event.of(json.loads(content), seq=int(seq))


def _logins(session_id: str, found: Sequence[bytes]) -> Iterator[Login]:
    """The logins of a session from the names and values of a hash in turn."""
    for user, value in zip(found[::2], found[1::2], strict=True):
        yield _login(session_id, user, value)


def _login(session_id: str, user: bytes, value: bytes) -> Login:
    time_us, first_seq = value.split()
    return Login(session_id, user.decode(), int(time_us), int(first_seq))
