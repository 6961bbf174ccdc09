"""The store of live items: durable, private, versioned, and refused where it is damaged."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from models.items.item import LiveValue, Put
from models.items.sqlite import ItemsUnreadable, SqliteItems
from models.items.store import open_items


def test_a_put_is_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "items.sqlite"
    with closing(SqliteItems(path, create=True)) as store:
        version = store.put([Put("lamp", {"price": 3, "brand": "Alder"})], kinds={"in_stock": "text"}, now_s=7.0)
        store_id = store.store_id

    with closing(SqliteItems(path)) as again:
        (item,) = again.changed(after=0)
        assert (again.store_id, again.version(), again.kinds()) == (store_id, version, {"in_stock": "text"})
    assert item.attributes == {"price": LiveValue(3, 7.0), "brand": LiveValue("Alder", 7.0)}
    assert not item.is_withdrawn


def test_a_put_merges_attributes_and_ends_a_withdrawal(tmp_path: Path) -> None:
    with closing(SqliteItems(tmp_path / "items.sqlite", create=True)) as store:
        store.put([Put("lamp", {"price": 3, "brand": "Alder"})], kinds={}, now_s=1.0)
        withdrawn = store.withdraw("lamp")
        assert store.changed(after=withdrawn - 1)[0].is_withdrawn

        version = store.put([Put("lamp", {"price": None}), Put("lamp", {"size": 2})], kinds={}, now_s=2.0)

        (item,) = store.changed(after=withdrawn)
    assert item.version == version > withdrawn
    assert not item.is_withdrawn
    assert item.attributes == {
        "price": LiveValue(None, 2.0),
        "brand": LiveValue("Alder", 1.0),
        "size": LiveValue(2, 2.0),
    }


def test_only_the_owner_can_read_the_files(tmp_path: Path) -> None:
    with closing(SqliteItems(tmp_path / "items.sqlite", create=True)) as store:
        store.put([Put("lamp", {})], kinds={}, now_s=1.0)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes["items.sqlite"] == 0o600
    assert set(modes.values()) == {0o600}


def test_writers_at_the_same_time_lose_nothing_and_give_every_write_its_own_version(tmp_path: Path) -> None:
    path = tmp_path / "items.sqlite"
    SqliteItems(path, create=True).close()

    def write(number: int) -> int:
        with closing(SqliteItems(path)) as store:
            return store.put([Put("shared", {f"a{number}": number})], kinds={}, now_s=float(number))

    with ThreadPoolExecutor(4) as threads:
        versions = list(threads.map(write, range(20)))

    with closing(SqliteItems(path)) as store:
        (item,) = store.changed(after=0)
    assert sorted(versions) == list(range(1, 21))
    assert len(item.attributes) == 20


def test_a_missing_damaged_or_newer_file_is_refused_with_its_name(tmp_path: Path) -> None:
    damaged, newer = tmp_path / "damaged.sqlite", tmp_path / "newer.sqlite"
    damaged.write_bytes(b"no database at all " * 100)
    SqliteItems(newer, create=True).close()
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'layout'")

    with pytest.raises(FileNotFoundError, match=r"missing\.sqlite"):
        open_items(str(tmp_path / "missing.sqlite"))
    with pytest.raises(ItemsUnreadable, match=r"damaged\.sqlite is damaged.*put the items again"):
        open_items(str(damaged), create=True)
    with pytest.raises(ItemsUnreadable, match="newer release"):
        open_items(str(newer))
    with pytest.raises(ValueError, match="redis:// is not supported"):
        open_items("redis://localhost:6379/0")


def test_a_file_that_is_moved_away_and_back_keeps_what_was_put(tmp_path: Path) -> None:
    path, aside = tmp_path / "items.sqlite", tmp_path / "aside"
    store = SqliteItems(path, create=True)
    store.put([Put("before", {})], kinds={}, now_s=1.0)
    path.rename(aside)
    path.write_text("text")
    with pytest.raises(ItemsUnreadable):
        SqliteItems(path)

    aside.rename(path)
    with closing(SqliteItems(path)) as again:
        again.put([Put("after", {})], kinds={}, now_s=2.0)

    assert list(tmp_path.iterdir()) == [path], "nothing that was put is in another file"
    with closing(SqliteItems(path)) as again:
        assert [item.item_id for item in again.changed(after=0)] == ["before", "after"]
    store.close()
