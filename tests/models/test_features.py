"""The feature store: a value is overwritten only if it has not changed since it was read."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from models.errors import FeatureStoreUnreadable
from models.family import Feature
from models.features import ABSENT, Change, FeatureStore, NotUnicode, create_live_store, fill, filled, live
from models.prepared import Prepared

ASKED = Feature(name="notes", keys=lambda request: list(request))


def test_a_value_is_written_only_if_its_version_has_not_changed_since_it_was_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")
    before = store.read([ASKED], ["ann"])
    assert before.versions == {("notes", "ann"): ABSENT}

    assert store.compare_and_set([Change("notes", "ann", [1], before.versions["notes", "ann"])])
    assert not store.compare_and_set([Change("notes", "ann", [2], before.versions["notes", "ann"])])

    after = store.read([ASKED], ["ann"])
    assert after.values == {"notes": {"ann": [1]}}
    assert store.compare_and_set([Change("notes", "ann", None, after.versions["notes", "ann"])])
    assert store.read([ASKED], ["ann"]).values == {"notes": {"ann": None}}


def test_several_values_are_written_all_or_none(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")
    store.compare_and_set([Change("notes", "bob", "old", ABSENT)])

    assert not store.compare_and_set([Change("notes", "ann", "new", ABSENT), Change("notes", "bob", "new", ABSENT)])
    assert store.read([ASKED], ["ann", "bob"]).values == {"notes": {"bob": "old"}}

    assert store.compare_and_set([Change("notes", "ann", "new", ABSENT), Change("notes", "bob", "new", 1)])
    assert store.read([ASKED], ["ann", "bob"]).values == {"notes": {"ann": "new", "bob": "new"}}


def test_a_value_that_is_not_json_is_rejected_and_the_store_stays_usable(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")

    with pytest.raises(TypeError):
        store.compare_and_set([Change("notes", "ann", object(), ABSENT)])

    assert store.compare_and_set([Change("notes", "ann", 1, ABSENT)])


def test_a_value_that_is_not_unicode_is_rejected_and_nothing_is_written(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")

    with pytest.raises(NotUnicode, match="the new value of 'notes' for 'bob' is not Unicode text"):
        store.compare_and_set([Change("notes", "ann", "new", ABSENT), Change("notes", "bob", ["\ud800"], ABSENT)])

    assert store.state() == (0, 0)


def test_concurrent_writers_lose_no_value(tmp_path: Path) -> None:
    path = tmp_path / "live.sqlite"
    create_live_store(path)

    def append(writer: int) -> None:
        store = FeatureStore(path)
        for number in range(50):
            is_written = False
            while not is_written:
                found = store.read([ASKED], ["ann"])
                notes = [*found.values["notes"].get("ann", []), [writer, number]]
                is_written = store.compare_and_set([Change("notes", "ann", notes, found.versions["notes", "ann"])])

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(append, range(4)))

    notes = FeatureStore(path, read_only=True).read([ASKED], ["ann"]).values["notes"]["ann"]
    assert sorted(notes) == [[writer, number] for writer in range(4) for number in range(50)]


def test_a_live_store_is_private_and_keeps_its_values(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "live.sqlite"
    create_live_store(path)
    store = FeatureStore(path)
    store.compare_and_set([Change("notes", "ann", 1, ABSENT)])

    create_live_store(path)

    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3, "the store, its write-ahead log and its index"
    assert store.read([ASKED], ["ann"]).values == {"notes": {"ann": 1}}


def test_the_state_changes_with_each_write(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")
    states = [store.state()]
    for key, version in (("ann", ABSENT), ("ann", 1), ("bob", ABSENT)):
        assert store.compare_and_set([Change("notes", key, "same", version)])
        states.append(store.state())

    assert len(set(states)) == 4


def test_only_features_that_come_from_prepared_data_are_filled(tmp_path: Path) -> None:
    prepared = Feature(name="history", keys=lambda request: list(request), rows=lambda data: [("ann", data.name)])
    store = FeatureStore(tmp_path / "features.sqlite")

    assert (filled([ASKED, prepared]), live([ASKED, prepared])) == ([prepared], [ASKED])
    assert fill(store, [ASKED, prepared], Prepared(tmp_path / "data")) == {"history": 1}
    assert store.read([ASKED, prepared], ["ann"]).values == {"notes": {}, "history": {"ann": "data"}}


def test_a_store_of_release_0_1_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE feature (name TEXT, key TEXT, value TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID")
        old.execute("INSERT INTO feature VALUES ('notes', 'ann', '[1]')")
    old.close()

    assert FeatureStore(path, read_only=True).read([ASKED], ["ann"]).values == {"notes": {"ann": [1]}}


@pytest.mark.parametrize("content", [b"not a database" * 100, b""])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_not_a_feature_store_is_named(tmp_path: Path, content: bytes, read_only: bool) -> None:
    path = tmp_path / "features.sqlite"
    path.write_bytes(content)

    if not content and not read_only:  # a new live store
        assert FeatureStore(path).state() == (0, 0)
    else:
        with pytest.raises(FeatureStoreUnreadable, match=r"features\.sqlite is not a.* feature store"):
            FeatureStore(path, read_only=read_only)


@pytest.mark.parametrize("fault", ["UPDATE feature SET value = '[1'", "DROP TABLE feature"])
def test_a_feature_that_cannot_be_read_as_a_whole_is_a_fault_of_the_store(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "features.sqlite"
    store = FeatureStore(path)
    store.replace("notes", [("ann", [1])])
    assert store.rows("notes") == [("ann", [1])]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(fault)

    with pytest.raises(FeatureStoreUnreadable, match=r"features\.sqlite"):
        store.rows("notes")


def test_a_key_that_is_not_unicode_is_rejected_and_the_store_stays_usable(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "live.sqlite")

    with pytest.raises(NotUnicode, match=r"the key '\\ud800' of 'notes' is not Unicode text"):
        store.read([ASKED], ["ann", "\ud800"])

    assert store.read([ASKED], ["ann"]).values == {"notes": {}}
