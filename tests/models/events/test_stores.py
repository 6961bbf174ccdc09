"""The contract of an event store, which SQLite and Redis keep in the same words."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.events.event import MAX_EVENTS, Event
from models.events.store import EventStore, open_events
from tests.kit.redis_servers import RedisServer, redis_server

Open = Callable[[], EventStore]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    # Syncing each write to the disk is tested where the server is killed.
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an event store that does not exist yet."""
    if request.param == "sqlite":
        return str(tmp_path / "events.sqlite")
    return f"{request.getfixturevalue('server').address}?prefix={uuid.uuid4().hex}"


@pytest.fixture
def events(address: str) -> Iterator[EventStore]:
    store = open_events(address)
    yield store
    store.close()


def event(number: int, user: str | None = "ann", session: str | None = None, *, second: float | None = None) -> Event:
    """An event that has its number in all its values."""
    time_s = 1_700_000_000 + (number if second is None else second)
    return Event(f"e{number}", user, session, f"i{number}", "view", time_s, f"r{number}", number / 4, number + 1)


def ids(found: list[Event]) -> list[str]:
    return [each.event_id for each in found]


def everything(store: EventStore) -> list[Event]:
    return [each for block in store.scan(after_seq=0, until_seq=store.last_seq()) for each in block]


def test_an_event_comes_back_with_all_its_values_and_a_number(events: EventStore) -> None:
    full = Event("é 1", "u:1 'ü'", "s,1", "i\n", "View", 1_700_000_000.123456, "r1", 0.1, 3.0)
    bare = Event("2", None, "s,1", "i2", None, 1_700_000_001.0)

    assert events.append([full, bare]) == [True, True]

    first, second = everything(events)
    assert (first, second) == (Event(**{**vars(full), "seq": first.seq}), Event(**{**vars(bare), "seq": second.seq}))
    assert 0 < first.seq < second.seq == events.last_seq()


def test_an_event_is_stored_once_however_often_it_is_sent(events: EventStore) -> None:
    assert events.append([event(1), event(2), event(1)]) == [True, True, False]
    assert events.append([event(2), event(3)]) == [False, True]
    assert events.append([]) == []
    assert ids(everything(events)) == ["e1", "e2", "e3"]


def test_an_id_that_came_with_other_values_keeps_the_first(events: EventStore) -> None:
    events.append([event(1)])
    assert events.append([event(1, user="bob")]) == [False]
    assert events.of(user_id="bob", session_id=None, after_seq=0) == []


def test_the_events_of_a_user_come_in_order_of_time_after_the_watermark(events: EventStore) -> None:
    events.append([event(1, second=30), event(2, second=10), event(3, user="bob"), event(4, second=20)])
    assert ids(events.of(user_id="ann", session_id=None, after_seq=0)) == ["e2", "e4", "e1"]
    assert ids(events.of(user_id="ann", session_id=None, after_seq=2)) == ["e4"]
    assert events.of(user_id="ann", session_id=None, after_seq=events.last_seq()) == []


def test_the_newest_events_are_returned_where_there_are_too_many(events: EventStore) -> None:
    events.append([event(number) for number in range(MAX_EVENTS + 150)])
    found = ids(events.of(user_id="ann", session_id=None, after_seq=0))
    assert len(found) == MAX_EVENTS
    assert (found[0], found[-1]) == ("e150", f"e{MAX_EVENTS + 149}")


def test_a_session_alone_has_all_its_events(events: EventStore) -> None:
    events.append([event(1, None, "s1"), event(2, "ann", "s1"), event(3, None, "s2"), event(4, None, "s1")])
    assert ids(events.of(user_id=None, session_id="s1", after_seq=0)) == ["e1", "e2", "e4"]
    assert ids(events.of(user_id=None, session_id="s1", after_seq=1)) == ["e2", "e4"]


def test_events_without_a_user_belong_to_who_logged_in_to_the_session(events: EventStore) -> None:
    events.append([event(1, None, "s1"), event(2, "ann", "s1"), event(3, None, "s1")])
    events.append([event(4, "bob", "s1"), event(5, None, "s1"), event(6, None, "s2")])
    assert ids(events.of(user_id="ann", session_id=None, after_seq=0)) == ["e1", "e2", "e3"]
    assert ids(events.of(user_id="bob", session_id=None, after_seq=0)) == ["e4", "e5"]
    assert ids(events.of(user_id="ann", session_id="s2", after_seq=0)) == ["e1", "e2", "e3", "e6"]
    assert (events.owner("s1"), events.owner("s2"), events.owner("s3")) == ("bob", None, None)


def test_a_login_that_happened_earlier_but_came_later_counts_by_its_time(events: EventStore) -> None:
    events.append([event(1, "bob", "s1", second=10), event(2, None, "s1", second=7), event(3, "ann", "s1", second=20)])
    events.append([event(4, "ann", "s1", second=5)])
    assert ids(events.of(user_id="ann", session_id=None, after_seq=0)) == ["e4", "e2", "e3"]
    assert events.owner("s1") == "bob"


def test_events_before_the_watermark_count_if_their_session_came_to_a_user_after_it(events: EventStore) -> None:
    events.append([event(1, None, "s1"), event(2, None, "s2"), event(3, "ann", "s2")])
    watermark = events.last_seq()
    events.append([event(4, "ann", "s1")])
    assert ids(events.of(user_id="ann", session_id=None, after_seq=watermark)) == ["e1", "e4"]


def test_a_scan_reads_blocks_in_order_of_the_numbers(events: EventStore) -> None:
    events.append([event(number, second=-number) for number in range(1, 2_501)])
    blocks = list(events.scan(after_seq=100, until_seq=2_400))
    numbers = [each.seq for block in blocks for each in block]
    assert numbers == list(range(101, 2_401))
    assert list(events.scan(after_seq=2_500, until_seq=9_999)) == []


def test_erasing_a_user_takes_what_only_they_can_have_done(events: EventStore) -> None:
    events.append([event(1), event(2, None, "s1"), event(3, "ann", "s1"), event(4, None, "s2")])
    events.append([event(5, "ann", "s2"), event(6, "bob", "s2"), event(7, "bob"), event(8, None, "s3")])

    assert events.erase("ann") == 4

    assert ids(everything(events)) == ["e4", "e6", "e7", "e8"]
    assert events.of(user_id="ann", session_id="s1", after_seq=0) == []
    assert ids(events.of(user_id="bob", session_id=None, after_seq=0)) == ["e4", "e6", "e7"]
    assert ids(events.of(user_id=None, session_id="s2", after_seq=0)) == ["e4", "e6"]
    assert events.erase("ann") == 0


def test_numbers_are_not_used_again_after_an_erasure(events: EventStore) -> None:
    events.append([event(1), event(2)])
    last = events.last_seq()
    events.erase("ann")
    assert events.last_seq() == last
    events.append([event(1)])
    assert events.last_seq() > last


def test_a_store_keeps_its_id_and_its_numbers_when_it_is_opened_again(address: str) -> None:
    first = open_events(address)
    first.append([event(1), event(2)])
    first.close()
    second = open_events(address, create=False)
    assert (second.store_id, second.last_seq(), ids(everything(second))) == (first.store_id, 2, ["e1", "e2"])
    second.close()


def test_writers_at_the_same_time_lose_nothing_and_share_no_number(address: str) -> None:
    stores = [open_events(address) for _ in range(3)]

    def write(worker: int) -> list[bool]:
        store = stores[worker % 3]
        return [new for start in range(0, 60, 3) for new in store.append([event(start + n) for n in range(3)])]

    with ThreadPoolExecutor(6) as pool:
        is_new = list(pool.map(write, range(6)))

    assert sum(map(sum, is_new)) == 60, "each event is new to one writer"
    assert sorted(ids(everything(stores[0]))) == sorted(f"e{number}" for number in range(60))
    assert len({each.seq for each in everything(stores[1])}) == 60
    for store in stores:
        store.close()


def test_a_session_that_nobody_logged_in_to_is_erased_as_its_own_user(events: EventStore) -> None:
    sent = [
        event(1, None, "s1"),
        event(2, None, "s1"),
        event(3, None, "s2"),
        event(4, "ann", "s3"),
        event(5, None, "s3"),
    ]
    events.append(sent)

    assert events.erase("session:s1") == 2
    assert events.erase("session:s3") == 0, "its events are those of ann"

    assert ids(everything(events)) == ["e3", "e4", "e5"]
    assert events.of(user_id=None, session_id="s1", after_seq=0) == []
