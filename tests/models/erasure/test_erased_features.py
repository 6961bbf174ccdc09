"""Erased users and feature stores: neither read, nor written, nor among the bytes of the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.erasure.features import forget, silenced, sweep
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.family import Feature
from models.features import ABSENT, Change, FeatureStore, create_live_store, write_store
from models.prepared import Prepared

USER, OTHER = "anna.schmidt@example.org", "bert@example.org"


def history_of(data: Prepared) -> Iterator[tuple[str, Any]]:
    for number in range(300):
        yield f"user-{number}", [f"item-{number}"] * 20
    yield USER, ["anna-bought-this"] * 40
    yield OTHER, ["bert-bought-this"]


HISTORY = Feature(name="history", keys=lambda request: list(request), rows=history_of, is_personal=True)
ITEMS = Feature(name="items", keys=lambda request: list(request), rows=lambda data: [(USER, ["an item"])])


@pytest.fixture
def tombstones(tmp_path: Path) -> Tombstones:
    return Tombstones(tmp_path / "erased.sqlite")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "features.sqlite"
    write_store(path, [HISTORY, ITEMS], Prepared(tmp_path))
    return path


def read(path: Path, feature: Feature, *keys: str) -> Any:
    with closing(FeatureStore(path, read_only=True)) as store:
        return store.read([feature], keys).values[feature.name]


def test_an_erased_user_is_not_asked_for_and_others_are(filled: Path, tombstones: Tombstones) -> None:
    history, items = silenced([HISTORY, ITEMS], tombstones)
    tombstones.add([USER])

    assert read(filled, history, USER, OTHER) == {OTHER: ["bert-bought-this"]}
    assert read(filled, items, USER) == {USER: ["an item"]}, "the key of an item is no user"


def test_a_store_is_filled_without_erased_users(tmp_path: Path, tombstones: Tombstones) -> None:
    tombstones.add([USER])
    path = tmp_path / "features.sqlite"

    write_store(path, silenced([HISTORY], tombstones), Prepared(tmp_path))

    assert read(path, HISTORY, USER, OTHER) == {OTHER: ["bert-bought-this"]}
    assert b"anna" not in path.read_bytes()


def test_forgetting_overwrites_the_bytes_beside_a_reader(filled: Path) -> None:
    assert b"anna-bought" in filled.read_bytes()
    with closing(FeatureStore(filled, read_only=True)) as reader:
        done = forget(filled, ["history"], [USER])

        assert reader.read([HISTORY], [USER, OTHER]).values["history"] == {OTHER: ["bert-bought-this"]}
    assert (done.values, done.error) == (1, None)
    assert b"anna-bought" not in filled.read_bytes()
    assert read(filled, ITEMS, USER) == {USER: ["an item"]}


def test_sweeping_a_live_store_leaves_no_stale_copy_in_any_of_its_files(tmp_path: Path, tombstones: Tombstones) -> None:
    path = tmp_path / "live.sqlite"
    create_live_store(path)
    notes = dataclasses.replace(HISTORY, name="notes", rows=None)
    with closing(FeatureStore(path)) as store:
        for version in range(30):
            value = [f"anna-bought-this {version} times"] * (40 + version)
            assert store.compare_and_set([Change("notes", USER, value, version or ABSENT)])
        store.compare_and_set([Change("notes", OTHER, ["kept"], ABSENT)])
        assert b"anna" in b"".join(each.read_bytes() for each in tmp_path.glob("live.sqlite*"))
        tombstones.add([USER])

        done = sweep(path, ["notes"], tombstones.erased())

    assert (done.values, done.error) == (1, None)
    assert b"anna" not in b"".join(each.read_bytes() for each in tmp_path.glob("live.sqlite*"))
    assert read(path, notes, USER, OTHER) == {OTHER: ["kept"]}


def test_a_user_who_has_consented_anew_stays_in_the_stores(filled: Path, tombstones: Tombstones) -> None:
    tombstones.add([USER])
    tombstones.lift(USER)

    assert sweep(filled, ["history"], tombstones.erased()).values == 0
    assert USER in read(filled, HISTORY, USER)


def test_unreadable_tombstones_make_everybody_unknown_and_say_so(filled: Path, tombstones: Tombstones) -> None:
    tombstones.path.write_bytes(b"damaged" * 100)
    said: list[str] = []
    (history,) = silenced([HISTORY], tombstones, on_unreadable=said.append)
    (strict,) = silenced([HISTORY], tombstones)

    assert read(filled, history, OTHER) == {}
    assert "which says who is erased" in said[0]
    with pytest.raises(TombstonesUnreadable):
        read(filled, strict, OTHER)


def test_a_store_that_cannot_be_written_is_reported(filled: Path) -> None:
    filled.write_bytes(b"damaged" * 1000)

    assert "not a database" in str(forget(filled, ["history"], [USER]).error)
