"""The event store on SQLite: durable, idempotent, in order over processes, and clear about its faults."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from models.errors import EventsUnavailable
from models.events import sqlite
from models.events.event import MAX_EVENTS, Event
from models.events.sqlite import SqliteEvents
from models.events.store import EventStore, open_events
from tests.kit.event_writers import Writer, event, stored_ids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop" / "events.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    opened = open_events(str(path))
    yield opened
    opened.close()


def ids(events: list[Event]) -> list[str]:
    return [each.event_id for each in events]


def test_an_event_comes_back_as_it_was_stored(store: EventStore) -> None:
    sent = Event("e1", "ann", "s1", "shoe", "purchase", 1_700_000_000.123457, "r1", 9.99, 2.0)

    assert store.append([sent]) == [True]

    (found,) = store.of(user_id="ann", session_id=None, after_seq=0)
    assert found == Event(**{**sent.__dict__, "seq": 1})
    assert store.last_seq() == 1


def test_an_event_id_is_stored_once_whoever_sends_it_again(store: EventStore, path: Path) -> None:
    assert store.append([event("a"), event("b"), event("a")]) == [True, True, False]
    other = open_events(str(path))

    assert other.append([event("b", "somebody-else"), event("c")]) == [False, True]

    assert ids(store.of(user_id="u", session_id=None, after_seq=0)) == ["a", "b", "c"]
    assert store.of(user_id="somebody-else", session_id=None, after_seq=0) == []
    other.close()


def test_the_file_is_private_and_keeps_its_id(store: EventStore, path: Path) -> None:
    store.append([event("a")])
    again = open_events(str(path))

    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert again.store_id == store.store_id
    assert len(store.store_id) == 32
    assert open_events(str(path.with_name("other.sqlite"))).store_id != store.store_id
    again.close()


def test_a_commit_waits_for_the_disk(store: EventStore) -> None:
    assert isinstance(store, SqliteEvents)
    store.append([event("a")])
    assert store._writer is not None
    assert store._writer.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_of_concurrent_creators_one_wins(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(lambda _: open_events(str(path)), range(8)))

    assert len({each.store_id for each in stores}) == 1
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


def test_events_are_in_order_of_time_and_newer_than_the_watermark(store: EventStore) -> None:
    store.append([event("late", at_s=30.0), event("early", at_s=10.0)])
    store.append([event("middle", at_s=20.0)])

    assert ids(store.of(user_id="u", session_id=None, after_seq=0)) == ["early", "middle", "late"]
    assert ids(store.of(user_id="u", session_id=None, after_seq=1)) == ["early", "middle"]
    assert store.of(user_id="u", session_id=None, after_seq=3) == []
    assert [ids(block) for block in store.scan(after_seq=1, until_seq=2)] == [["early"]]


def test_only_the_newest_events_of_a_user_are_returned(store: EventStore) -> None:
    store.append([event(str(number), at_s=float(number)) for number in range(MAX_EVENTS + 5)])

    found = store.of(user_id="u", session_id=None, after_seq=0)

    assert ids(found) == [str(number) for number in range(5, MAX_EVENTS + 5)]


class HeldCommits:
    """Holds the first commit of a store until others wait for theirs."""

    def __init__(self, store: SqliteEvents, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._begun, self._go_on = threading.Event(), threading.Event()
        self._commit, self._commits = store._commit, store._commits
        self._append = store.append
        monkeypatch.setattr(store._commits, "_commit", self._held)

    def append_together(self, *callers: list[Event]) -> list[BaseException | None]:
        """Append the events of each caller in one commit, after one of another; returns the errors."""
        with ThreadPoolExecutor(1 + len(callers)) as threads:
            threads.submit(self._append, [event("first")])
            self._begun.wait(30)
            waiting = [threads.submit(self._append, events) for events in callers]
            while self._commits._num_waiting < sum(map(len, callers)):
                threading.Event().wait(0.001)
            self._go_on.set()
            return [each.exception(30) for each in waiting]

    def _held(self, events: Sequence[Event]) -> list[bool]:
        self.sizes.append(len(events))
        self._begun.set()
        self._go_on.wait(30)
        return self._commit(events)


def test_what_waits_during_a_commit_goes_into_the_next_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteEvents(path)
    commits = HeldCommits(store, monkeypatch)

    assert commits.append_together(*[[event(f"e{number}")] for number in range(19)]) == [None] * 19

    assert commits.sizes == [1, 19]
    assert len(stored_ids(store)) == 20


def test_one_callers_mistake_does_not_fail_the_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteEvents(path)

    errors = HeldCommits(store, monkeypatch).append_together([event("a")], [event("\ud800")], [event("b")])

    assert [type(error) for error in errors] == [type(None), UnicodeEncodeError, type(None)]
    assert set(stored_ids(store)) == {"first", "a", "b"}


def test_two_processes_write_at_once_and_each_seq_is_given_once(path: Path) -> None:
    store = open_events(str(path))
    writers = [Writer(str(path), name) for name in ("a", "b")]

    acknowledged = [each.killed_after(0.3) for each in writers]

    found = stored_ids(store)
    assert all(acknowledged)
    assert set(acknowledged[0] + acknowledged[1]) <= set(found)
    assert len(found) == len(set(found))
    store.close()


def test_no_acknowledged_event_is_lost_when_writers_are_killed(path: Path) -> None:
    draw, acknowledged = random.Random(0), []
    store = open_events(str(path))
    for number in range(6):
        writers = [Writer(str(path), f"{number}-{name}") for name in ("a", "b")]
        for each in writers:
            acknowledged += each.killed_after(draw.random() / 20)

    assert set(acknowledged) - set(stored_ids(store)) == set()
    assert store.append([event("after")]) == [True]
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def test_seq_is_not_reused_after_events_are_erased(store: EventStore) -> None:
    store.append([event("a", "ann"), event("b", "bob")])

    assert store.erase("bob") == 1
    store.append([event("c", "ann")])

    assert [each.seq for each in store.of(user_id="ann", session_id=None, after_seq=0)] == [1, 3]
    assert store.last_seq() == 3


def test_erasing_leaves_no_byte_of_the_user(store: EventStore, path: Path) -> None:
    store.append([event("a", "ann"), event("secret-1", "margarethe", "s1"), event("secret-2", None, "s1")])
    store.append([event("theirs", "bob", "s2"), event("shared", "margarethe", "s2"), event("unknown", None, "s2")])

    assert store.erase("margarethe") == 3

    assert ids([each for block in store.scan(after_seq=0, until_seq=99) for each in block]) == [
        "a",
        "theirs",
        "unknown",
    ]
    content = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert b"margarethe" not in content
    assert b"secret" not in content
    assert store.owner("s1") is None


def test_a_newer_format_is_refused(path: Path) -> None:
    open_events(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")

    with pytest.raises(EventsUnavailable, match=r"has format 2, and this release of Shopkeeper reads up to 1; upgrade"):
        open_events(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or no event store"),
        (b"SQLite format 3\0" + b"x" * 4096, "is damaged"),
        (b"x" * 4096, "is damaged"),
    ],
)
def test_a_file_that_is_no_store_is_named(path: Path, content: bytes, message: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(EventsUnavailable, match=message) as error:
        open_events(str(path))
    assert str(path) in str(error.value)
    assert path.read_bytes() == content


def test_a_store_that_is_missing_is_created_only_on_request(path: Path) -> None:
    with pytest.raises(EventsUnavailable, match="no event store at"):
        open_events(str(path), create=False)
    assert not path.exists()


def test_a_full_disk_acknowledges_nothing_and_later_events_are_stored(store: EventStore, path: Path) -> None:
    store.append([event("a")])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    used = max(each.stat().st_size for each in path.parent.iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, limits[1]))
        with pytest.raises(EventsUnavailable) as error:
            store.append([event(f"big-{number}") for number in range(2000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert str(path) in str(error.value)
    assert error.value.retry_after_s > 0
    assert stored_ids(store) == ["a"]
    assert store.append([event("b")]) == [True]


@pytest.mark.parametrize("how", ["by a writer of ours", "by another program"])
def test_a_locked_store_says_so(store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    if how == "by another program":
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(EventsUnavailable, match="is locked by another process; try again"):
            store.append([event("a")])
        other.execute("ROLLBACK")
    else:
        with sqlite.turn(path), pytest.raises(EventsUnavailable, match="is locked by another process; try again"):
            store.append([event("a")])

    assert store.append([event("a")]) == [True]
    other.close()


def test_a_replaced_file_is_noticed_by_readers_and_writers(store: EventStore, path: Path) -> None:
    store.append([event("before")])
    other = open_events(str(path.with_name("restored.sqlite")))
    other.append([event("restored")])
    other.close()
    path.with_name("restored.sqlite").replace(path)

    assert store.append([event("after")]) == [True]

    assert stored_ids(store) == ["restored", "after"]
    assert store.store_id == open_events(str(path)).store_id


def test_a_deleted_file_acknowledges_nothing(store: EventStore, path: Path) -> None:
    store.append([event("a")])
    path.unlink()

    with pytest.raises(EventsUnavailable, match="no event store at"):
        store.append([event("b")])
    with pytest.raises(EventsUnavailable, match="no event store at"):
        store.of(user_id="u", session_id=None, after_seq=0)


def test_another_address_is_refused() -> None:
    with pytest.raises(ValueError, match="is not the address of an event store"):
        open_events("https://example.org/events")


@pytest.mark.parametrize("content", [None, b"", b"text", "a store"])
def test_a_store_that_is_moved_away_and_back_keeps_what_was_acknowledged(
    path: Path, store: EventStore, content: bytes | str | None
) -> None:
    store.append([event("before")])
    aside = path.with_name("aside")
    path.rename(aside)
    if content == "a store":
        made = path.with_name("made.sqlite")
        open_events(str(made)).close()
        made.rename(path)
        store.append([event("in the other")])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with suppress(EventsUnavailable):
        assert store.append([event("during")]) == [True]

    aside.rename(path)
    assert store.append([event("after")]) == [True]

    copy = path.with_name("copy.sqlite")  # what a process that was killed now would leave
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    assert sorted(stored_ids(open_events(str(copy)))) == ["after", "before"]


def test_a_missing_store_whose_log_is_there_is_not_created_anew(path: Path, store: EventStore) -> None:
    store.append([event("before")])
    path.rename(path.with_name("aside"))

    with pytest.raises(EventsUnavailable, match=r"write-ahead log .* may hold events"):
        open_events(str(path))

    path.with_name("aside").rename(path)
    assert stored_ids(open_events(str(path))) == ["before"]
