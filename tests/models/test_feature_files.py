"""The feature store as a file: replaced atomically, so that a replica reads the old one or the new one."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from models.family import Feature
from models.features import FeatureStore, write_store
from models.prepared import Prepared


def feature(text: str, *, is_disk_full: bool = False) -> Feature:
    """A feature of one row, after which the disk may be full."""

    def rows(data: Prepared) -> Iterable[tuple[str, Any]]:
        yield "ann", text
        if is_disk_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    return Feature(name="history", keys=lambda request: ["ann"], rows=rows)


def test_a_rewritten_store_is_one_file_and_open_readers_keep_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "shop" / "features.sqlite"
    write_store(path, [feature("old")], Prepared(tmp_path))
    before = FeatureStore(path, read_only=True)
    assert before.lookup([feature("")], None) == {"history": {"ann": "old"}}

    counts = write_store(path, [feature("new")], Prepared(tmp_path))

    after = FeatureStore(path, read_only=True)
    found = [store.lookup([feature("")], None)["history"]["ann"] for store in (before, after)]
    before.close()
    after.close()
    assert (counts, found) == ({"history": 1}, ["old", "new"])
    assert not list(path.parent.glob(".*"))


def test_a_full_disk_leaves_the_old_store_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    write_store(path, [feature("old")], Prepared(tmp_path))

    with pytest.raises(OSError, match="No space left"):
        write_store(path, [feature("new", is_disk_full=True)], Prepared(tmp_path))

    store = FeatureStore(path, read_only=True)
    found = store.lookup([feature("")], None)
    store.close()
    assert found == {"history": {"ann": "old"}}
    assert not list(tmp_path.glob(".*"))
