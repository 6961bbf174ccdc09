"""The feature store as a file: replaced atomically, so that a replica reads the old one or the new one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.errors import FeatureStoreUnreadable
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
    assert before.read([feature("")], None).values == {"history": {"ann": "old"}}

    counts = write_store(path, [feature("new")], Prepared(tmp_path))

    after = FeatureStore(path, read_only=True)
    found = [store.read([feature("")], None).values["history"]["ann"] for store in (before, after)]
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
    found = store.read([feature("")], None).values
    store.close()
    assert found == {"history": {"ann": "old"}}
    assert not list(tmp_path.glob(".*"))


NOBODY = 65534
IS_ROOT = os.geteuid() == 0


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as another user, whose permissions are checked unlike those of root."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"

    write_store(path, [feature("private")], Prepared(tmp_path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_another_user_cannot_read_a_store(open_directory: Path) -> None:
    path = open_directory / "features.sqlite"
    write_store(path, [feature("private")], Prepared(open_directory))

    with as_nobody():
        assert path.is_file(), "the directory must not be what keeps the user out"
        with pytest.raises(PermissionError):
            path.read_bytes()
        with pytest.raises(FeatureStoreUnreadable, match=r"features\.sqlite"):
            FeatureStore(path, read_only=True)


def test_a_store_is_readable_without_write_permission(open_directory: Path) -> None:
    path = open_directory / "features.sqlite"
    write_store(path, [feature("kept")], Prepared(open_directory))
    path.chmod(0o400)
    open_directory.chmod(0o555)

    def read() -> Any:
        store = FeatureStore(path, read_only=True)
        found = store.read([feature("")], None).values
        store.close()
        return found

    if IS_ROOT:  # for whom a missing permission has no effect
        os.chown(path, NOBODY, -1)
        with as_nobody():
            found = read()
    else:
        found = read()
    open_directory.chmod(0o755)

    assert found == {"history": {"ann": "kept"}}
