"""Backups of event stores, and files of older formats."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from models.events.backup import JUMP, backup, restore
from models.events.event import Event
from models.events.migrations import MIGRATIONS
from models.events.redis_store import RedisEvents
from models.events.sqlite import FORMAT, SqliteEvents
from models.events.store import EventStore, open_events
from tests.kit.redis_servers import RedisServer, redis_server

EVENTS = [
    Event("e1", None, "s1", "a", "view", 1_700_000_000.25, "r1", 1.5, 2.0),
    Event("e2", "ann", "s1", "b", None, 1_700_000_001.0),
    Event("e3", "bob", None, "c", "purchase", 1_700_000_002.0),
]
VERSION_0 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, user_id TEXT, session_id TEXT,
    item_id TEXT NOT NULL, event_type TEXT, time_us INTEGER NOT NULL
);
INSERT INTO meta VALUES ('store_id', 'abc');
INSERT INTO event VALUES (1, 'e1', NULL, 's1', 'a', 'view', 1700000000000000);
INSERT INTO event VALUES (5, 'e2', 'ann', 's1', 'b', NULL, 1700000001000000);
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite to sqlite", "sqlite to redis", "redis to sqlite", "redis to redis"])
def addresses(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The addresses of a store and of one that takes its place."""
    kinds = request.param.split(" to ")
    return tuple(  # type: ignore[return-value]
        str(tmp_path / f"{place}.sqlite")
        if kind == "sqlite"
        else f"{request.getfixturevalue('server').address}?prefix={uuid.uuid4().hex}"
        for place, kind in enumerate(kinds)
    )


def everything(store: EventStore) -> list[Event]:
    return [each for block in store.scan(after_seq=0, until_seq=store.last_seq()) for each in block]


def write_version_0(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_0)
    return path


def test_a_restored_store_has_the_same_id_events_numbers_and_logins(addresses: tuple[str, str], tmp_path: Path) -> None:
    store = open_events(addresses[0])
    store.append(EVENTS)
    store.erase("bob")
    assert backup(store, tmp_path / "copy" / "backup.sqlite") == 3
    store.append([replace(EVENTS[2], event_id="later")])

    assert restore(tmp_path / "copy" / "backup.sqlite", addresses[1]) == (store.store_id, 2)

    with closing(open_events(addresses[1], create=False)) as restored:
        assert restored.store_id == store.store_id
        assert everything(restored) == [replace(event, seq=seq) for seq, event in enumerate(EVENTS[:2], 1)]
        assert [each.event_id for each in restored.of(user_id="ann", session_id=None, after_seq=0)] == ["e1", "e2"]
        assert restored.append([EVENTS[0], EVENTS[2]]) == [False, True]
        assert restored.last_seq() > JUMP, "numbers that the store gave after the backup are not given again"
    store.close()


def test_a_store_with_events_is_overwritten_on_demand_only(addresses: tuple[str, str], tmp_path: Path) -> None:
    with closing(open_events(addresses[0])) as store:
        store.append(EVENTS)
        backup(store, tmp_path / "backup.sqlite")
    target = open_events(addresses[1])
    target.append([replace(EVENTS[0], event_id="own", item_id="own")])

    with pytest.raises(ValueError, match=r"has numbered 1 events already.*--force"):
        restore(tmp_path / "backup.sqlite", addresses[1])
    assert [each.event_id for each in everything(target)] == ["own"]

    restore(tmp_path / "backup.sqlite", addresses[1], force=True)

    assert target.append([replace(EVENTS[0], event_id="new")]) == [True], "a writer that was open goes on"
    assert [each.event_id for each in everything(target)] == ["e1", "e2", "e3", "new"]
    target.close()


def test_a_backup_is_private_and_one_file_and_leaves_a_former_one_if_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "copies" / "backup.sqlite"
    with closing(open_events(str(tmp_path / "events.sqlite"))) as store:
        store.append(EVENTS)
        backup(store, file)
        with pytest.raises(ValueError, match="is the event store itself"):
            backup(store, tmp_path / "events.sqlite")
    assert [path.name for path in file.parent.iterdir()] == ["backup.sqlite"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_backup_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to be one " * 100)
    address = str(tmp_path / "events.sqlite")
    for name, reason in (("text.sqlite", "is not a backup of events"), ("absent", "there is no backup at")):
        with pytest.raises(ValueError, match=reason):
            restore(tmp_path / name, address)
    assert not Path(address).exists()


def test_a_restore_to_redis_that_was_interrupted_is_noticed_and_repeated(server: RedisServer, tmp_path: Path) -> None:
    address = f"{server.address}?prefix={uuid.uuid4().hex}"
    with closing(open_events(str(tmp_path / "events.sqlite"))) as store:
        store.append(EVENTS)
        backup(store, tmp_path / "backup.sqlite")
    interrupted = RedisEvents(address)
    interrupted._writer.call("HSET", f"{interrupted.prefix}meta", "restoring", 1)

    with pytest.raises(OSError, match="was restored in part only; run `shopkeeper events restore` again"):
        interrupted.append(EVENTS)
    restore(tmp_path / "backup.sqlite", address, force=True)

    assert len(everything(interrupted)) == 3
    interrupted.close()


def test_a_store_of_version_0_is_migrated_with_its_numbers_and_logins(tmp_path: Path) -> None:
    path = write_version_0(tmp_path / "events.sqlite")
    for _ in range(2):
        with closing(SqliteEvents(path)) as store:
            assert store.store_id == "abc"
            assert [(each.event_id, each.seq, each.price) for each in everything(store)] == [
                ("e1", 1, None),
                ("e2", 5, None),
            ]
            assert [each.event_id for each in store.of(user_id="ann", session_id=None, after_seq=0)] == ["e1", "e2"]
    with closing(SqliteEvents(path)) as store:
        assert store.append([EVENTS[0], EVENTS[2]]) == [False, True]
        last = everything(store)[-1]
        assert last == replace(EVENTS[2], seq=last.seq)
        assert last.seq > 5


def test_a_migrated_store_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    write_version_0(tmp_path / "old.sqlite")
    tables = []
    for name in ("old.sqlite", "new.sqlite"):
        SqliteEvents(tmp_path / name).close()
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
            columns = {table: connection.execute(f"PRAGMA table_info({table})").fetchall() for table in names}
            described = {table: sorted(row[1:] for row in found) for table, found in columns.items()}
            format = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
            tables.append((names, described, format))
    assert tables[0] == tables[1]
    assert sorted(MIGRATIONS) == list(range(FORMAT)), "there is a step from each older format"


def test_a_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    path = write_version_0(tmp_path / "events.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE login (something TEXT)")
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot be used"):
        SqliteEvents(path)
    assert path.read_bytes() == before


def test_a_backup_of_version_0_is_restored_in_the_present_format(tmp_path: Path) -> None:
    backup_file = write_version_0(tmp_path / "backup.sqlite")
    before = backup_file.read_bytes()
    assert restore(backup_file, str(tmp_path / "events.sqlite")) == ("abc", 2)
    assert backup_file.read_bytes() == before
    with closing(open_events(str(tmp_path / "events.sqlite"), create=False)) as store:
        assert len(everything(store)) == 2
