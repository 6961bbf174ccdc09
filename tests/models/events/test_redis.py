"""Redis as an event store: what it must promise, what it survives, and what is said where it cannot be used."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import models.events.redis_server
from models.errors import EventsUnavailable
from models.events.event import Event
from models.events.redis_server import parse_address, shown_address
from models.events.redis_store import RedisEvents
from models.events.store import open_events
from tests.kit.redis_servers import redis_server

SECRET = "hunter2"


def event(number: int, user: str | None = "ann", session: str | None = None) -> Event:
    return Event(f"e{number}", user, session, f"i{number}", None, 1_700_000_000 + number)


def ids(store: RedisEvents) -> list[str]:
    return [each.event_id for block in store.scan(after_seq=0, until_seq=store.last_seq()) for each in block]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"appendonly": "no"}, "keeps events in memory only .appendonly no."),
        ({"appendfsync": "no"}, "acknowledges before it syncs .appendfsync no.; run `CONFIG SET appendfsync always`"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "evicts keys .* set it to noeviction"),
    ],
)
def test_a_server_that_could_lose_acknowledged_events_is_refused(
    tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    with redis_server(tmp_path, **settings) as server, pytest.raises(EventsUnavailable, match=reason):
        open_events(f"{server.address}?accept=everysec")


def test_a_sync_each_second_is_used_only_where_the_loss_is_accepted_or_waited_for(tmp_path: Path) -> None:
    with redis_server(tmp_path, appendfsync="everysec") as server:
        store = RedisEvents(f"{server.address}?accept=everysec")
        assert store.append([event(1)]) == [True]
        if b"WAITAOF" not in _commands(server.port):
            with pytest.raises(EventsUnavailable, match=r"appendfsync everysec.*accept=everysec that a power loss"):
                open_events(server.address)
        store.close()


def test_a_server_without_config_is_used_only_where_the_loss_is_accepted(tmp_path: Path) -> None:
    with redis_server(tmp_path, **{"rename-command": "CONFIG hidden"}) as server:
        with pytest.raises(EventsUnavailable, match=r"does not say when it syncs.*accept=everysec"):
            open_events(server.address)
        open_events(f"{server.address}?accept=everysec").close()


def test_what_was_acknowledged_survives_the_kill_of_the_server(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisEvents(server.address)
        acknowledged = []
        for number in range(60):
            store.append([event(number)])
            acknowledged.append(f"e{number}")
            if number % 20 == 19:
                server.kill()
                server.start()
        assert ids(store) == acknowledged
        assert store.last_seq() == 60
        store.close()


def test_a_server_that_is_down_is_named_without_the_password_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server(tmp_path, requirepass=SECRET) as server:
        address = f"redis://:{SECRET}@127.0.0.1:{server.port}/0"
        store = RedisEvents(address)
        server.kill()
        with pytest.raises(EventsUnavailable, match=r"\*\*\*@127.0.0.1.*cannot be reached.*start the server") as down:
            store.append([event(1)])
        with pytest.raises(EventsUnavailable, match="cannot be reached"):
            store.of(user_id="ann", session_id=None, after_seq=0)
        with pytest.raises(EventsUnavailable, match="cannot be reached"):
            open_events(address)
        server.start()
        assert store.append([event(1)]) == [True]
        store.close()
    assert down.value.retry_after_s > 0
    assert SECRET not in f"{down.value}{down.getrepr()}{caplog.text}"


def test_a_wrong_password_is_not_shown(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path, requirepass="other") as server,
        pytest.raises(EventsUnavailable, match="refuses the user or password") as refused,
    ):
        open_events(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")
    assert SECRET not in str(refused.value)


def test_a_password_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    with redis_server(tmp_path / "data", requirepass=SECRET) as server:
        store = RedisEvents(f"{server.address}?password_file={tmp_path / 'password'}")
        assert store.append([event(1)]) == [True]
        store.close()
        with pytest.raises(EventsUnavailable, match="a file that cannot be read"):
            open_events(f"{server.address}?password_file={tmp_path / 'absent'}")


def test_a_full_server_takes_no_part_of_what_it_is_sent(tmp_path: Path) -> None:
    with redis_server(tmp_path, maxmemory="5mb", **{"maxmemory-policy": "noeviction"}) as server:
        store = RedisEvents(server.address)
        sent = 0
        with pytest.raises(EventsUnavailable, match="is full; raise its maxmemory"):
            while sent < 1_000_000:
                store.append([event(number) for number in range(sent, sent + 1_000)])
                sent += 1_000
        assert len(ids(store)) == store.last_seq() == sent
        store.close()


def test_a_replica_is_refused_and_one_that_must_confirm_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.events.redis_server, "SYNC_TIMEOUT_S", 2.0)
    with redis_server(tmp_path / "primary", **{"repl-diskless-sync-delay": "0"}) as primary:
        replica_of = {"replicaof": f"127.0.0.1 {primary.port}"}
        held = RedisEvents(f"{primary.address}?replicas=1")
        with redis_server(tmp_path / "replica", **replica_of) as replica:
            with pytest.raises(EventsUnavailable, match="is a replica, which takes no events"):
                open_events(replica.address)
            _wait_for(lambda: held._reader.call("INFO", "replication").get("slave0", {}).get("state") == "online")
            assert held.append([event(1)]) == [True]
        with pytest.raises(EventsUnavailable, match="did not sync within"):
            held.append([event(2)])
        held.close()


def test_a_store_that_was_emptied_gets_a_new_id_instead_of_old_numbers_again(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisEvents(server.address)
        store.append([event(1), event(2)])
        before = store.store_id
        subprocess.run([sys.executable, "-c", _FLUSH, str(server.port)], check=True)
        assert store.append([event(3)]) == [True]
        assert store.store_id != before, "a watermark of the former store does not hold for it"
        store.close()


def test_erased_events_are_not_in_the_servers_files_afterwards(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisEvents(server.address)
        store.append([event(1, "someone-private", "s1"), event(2, "bob")])
        store.erase("someone-private")
        _wait_for(lambda: _is_rewritten(store))
        content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        server.kill()
        server.start()
        assert ids(store) == ["e2"]
        store.close()
    assert b"bob" in content
    assert content.count(b"someone-private") == 0


def test_several_shops_share_a_server_by_prefix(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        stores = [RedisEvents(f"{server.address}?prefix={name}") for name in ("shop-a", "shop-b")]
        stores[0].append([event(1)])
        assert [store.last_seq() for store in stores] == [1, 0]
        assert stores[0].store_id != stores[1].store_id
        for store in stores:
            store.close()


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisEvents(server.address)
        store._writer.call("HSET", f"{store.prefix}meta", "format", 99)
        with pytest.raises(EventsUnavailable, match="has format 99, and this release of Shopkeeper reads up to 1"):
            open_events(server.address)
        store.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (f"http://:{SECRET}@host/0", "'http://.*@host/0' is not the address of an event store"),
        (f"redis://:{SECRET}@/0", "is not the address of an event store"),
        (f"redis://:{SECRET}@host/0?accept=all", "accept=all is unknown; use accept=everysec"),
        (f"redis://:{SECRET}@host/0?replicas=one", "replicas=one is no number"),
        (f"redis://:{SECRET}@host/0?unknown=1", "is not the address of a Redis server: .*unknown"),
        (f"redis://:{SECRET}@host:port/0", "is not the address of a Redis server"),
    ],
)
def test_an_address_with_a_mistake_is_refused_without_its_password(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        open_events(address)
    assert SECRET not in str(refused.value)


def test_an_address_is_shown_without_its_credentials() -> None:
    assert shown_address(f"rediss://shop:{SECRET}@host:6380/2") == "rediss://***@host:6380/2"
    assert SECRET not in shown_address(f"redis://host/0?password={SECRET}")
    assert parse_address("redis://host/1?accept=everysec&replicas=2").url == "redis://host/1"


def test_the_package_of_redis_is_imported_for_its_addresses_only(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["redis"] = None  # as if it were not installed
from models.events.store import open_events
open_events({str(tmp_path / "events.sqlite")!r}).close()
try:
    open_events("redis://:{SECRET}@host/0")
except ValueError as error:
    sys.stdout.write(str(error))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'shopkeeper[redis]'" in found
    assert SECRET not in found


_FLUSH = """
import sys, redis
redis.Redis(port=int(sys.argv[1])).flushall()
"""


def _is_rewritten(store: RedisEvents) -> bool:
    state = store._reader.call("INFO", "persistence")
    return not int(state["aof_rewrite_in_progress"]) and not int(state["aof_rewrite_scheduled"])


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not happen within a minute"


def _commands(port: int) -> bytes:
    import redis

    return str(redis.Redis(port=port).command_list()).upper().encode()
