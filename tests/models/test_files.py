"""Atomic replacement: a file or directory is the old one or the new one, whatever happens to its writer."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.files import (
    LEFTOVER_AGE_S,
    add_directory,
    create_text,
    leftovers,
    put_directory,
    put_file,
    remove_directory,
    replace_directory,
    replace_file,
    sha256,
    temporary_directory,
    write_text,
)
from tests.conftest import CHECKOUT

NUM_WRITERS, NUM_TIMES = 4, 25
LARGE = 100_000
"""Characters: more than one write call."""


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "below" / "config.yaml"
    write_text(path, "old")

    with replace_file(path) as temporary:
        temporary.write_text("new")
        seen = path.read_text()

    assert (seen, path.read_text()) == ("old", "new")
    assert _names(path.parent) == ["config.yaml"]


def test_temporary_files_are_hidden_next_to_their_target(tmp_path: Path) -> None:
    with replace_file(tmp_path / "a.json") as first, replace_file(tmp_path / "a.json") as second:
        first.write_text("1")
        second.write_text("2")

    assert {first.parent, second.parent} == {tmp_path} and first != second
    assert first.name.startswith(".a.json.") and second.name.startswith(".a.json.")


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "No space left on device"), SystemExit(1)])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "features.sqlite"
    write_text(path, "old")

    with pytest.raises(type(error)), replace_file(path) as temporary:
        temporary.write_text("half")
        temporary.with_name(f"{temporary.name}-wal").write_text("SQLite's write-ahead log")
        raise error

    assert path.read_text() == "old" and _names(tmp_path) == ["features.sqlite"]


def test_text_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of it \ud800")

    assert path.read_text() == "old" and _names(tmp_path) == ["plan.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")

    assert path.read_text() == "old" and _names(tmp_path) == ["plan.json"]


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "No space left on device"), SystemExit(1)])
def test_an_exception_leaves_the_old_directory_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    directory = tmp_path / "best"
    _write_directory(directory, "old")

    with pytest.raises(type(error)), replace_directory(directory) as temporary:
        (temporary / "part-0").write_text("half")
        raise error

    assert _texts(directory) == {"old"} and _names(tmp_path) == ["best"]


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchanged in one step", "in two renames"])
def test_a_directory_replaces_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    directory = tmp_path / "below" / "best"
    _write_directory(directory, "old")
    (directory / "only-in-the-old").touch()

    _write_directory(directory, "new")

    assert _texts(directory) == {"new"} and len(_names(directory)) == 3
    assert _names(directory.parent) == ["best"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a moment without the directory")
def test_a_directory_exists_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "best"
    _write_directory(directory, "0")
    finished = threading.Event()
    missing: list[int] = []

    def look() -> None:
        while not finished.is_set():
            if not directory.is_dir():
                missing.append(1)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(NUM_TIMES):
        _write_directory(directory, str(number))
    finished.set()
    reader.join()

    assert not missing


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchanged in one step", "in two renames"])
def test_concurrent_writers_do_not_mix_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    path, directory = tmp_path / "CURRENT", tmp_path / "best"
    start = threading.Barrier(NUM_WRITERS)

    def write(digit: str) -> None:
        start.wait()
        for _ in range(NUM_TIMES):
            write_text(path, digit * LARGE)
            text = path.read_text()
            assert text == text[0] * LARGE
            _write_directory(directory, digit)

    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        list(writers.map(write, map(str, range(NUM_WRITERS))))

    assert len(_texts(directory)) == 1 and path.stat().st_size == LARGE


def test_a_killed_writer_leaves_the_old_content_and_hidden_leftovers_that_are_ignored(tmp_path: Path) -> None:
    write_text(tmp_path / "CURRENT", "old")
    _write_directory(tmp_path / "best", "old")
    program = """
        import os, sys
        from pathlib import Path
        from models.files import replace_directory, replace_file

        root = Path(sys.argv[1])
        with replace_file(root / "CURRENT") as file, replace_directory(root / "best") as directory:
            file.write_text("half")
            (directory / "part-0").write_text("half")
            os._exit(9)
    """

    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], cwd=CHECKOUT, check=False, capture_output=True
    )

    left = sorted(tmp_path.glob(".*"))
    assert (killed.returncode, len(left)) == (9, 2), killed.stderr
    assert (tmp_path / "CURRENT").read_text() == "old" and _texts(tmp_path / "best") == {"old"}
    write_text(tmp_path / "CURRENT", "new")
    _write_directory(tmp_path / "best", "new")
    assert (tmp_path / "CURRENT").read_text() == "new" and _texts(tmp_path / "best") == {"new"}
    assert sorted(tmp_path.glob(".*")) == left


def test_leftovers_are_temporary_paths_of_the_given_names_without_a_change_for_a_day(tmp_path: Path) -> None:
    for name in (".new.00000000", ".new.11111111"):
        (tmp_path / name / "work").mkdir(parents=True)
    not_ours = (".gitignore", ".CURRENT.old", ".best.00000000", ".new.0000000g", "CURRENT")
    for name in (".CURRENT.00000000", *not_ours):
        (tmp_path / name).touch()
    past = time.time() - LEFTOVER_AGE_S - 60
    for name in (".new.00000000/work", ".new.00000000", ".new.11111111", ".CURRENT.00000000", *not_ours):
        os.utime(tmp_path / name, (past, past))

    assert {path.name for path in leftovers(tmp_path, "new", "CURRENT")} == {".new.00000000", ".CURRENT.00000000"}
    assert {path.name for path in leftovers(tmp_path, "CURRENT")} == {".CURRENT.00000000"}


@pytest.mark.parametrize("write", [write_text, create_text])
def test_a_file_has_its_permissions_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    path, seen = tmp_path / "cluster.json", list[int]()
    synced = os.fsync

    def watch(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write(path, "secret", mode=0o600)

    assert seen == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_rewritten_file_keeps_its_mode_unless_another_is_given(tmp_path: Path) -> None:
    path, modes = tmp_path / "serve.yaml", list[int]()
    for before, given in ((0o600, None), (0o666, None), (0o444, None), (0o644, 0o600)):
        path.touch()
        path.chmod(before)
        write_text(path, "new", mode=given)
        modes.append(stat.S_IMODE(path.stat().st_mode))

    assert modes == [0o600, 0o666, 0o444, 0o600]


def test_a_private_file_is_private_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    write_text(path, "old", mode=0o600)

    with replace_file(path) as temporary:
        temporary.write_text("secret")
        seen = stat.S_IMODE(temporary.stat().st_mode)

    assert seen == 0o600


def test_a_finished_file_gets_the_mode_of_the_one_it_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "answers", "old", mode=0o600)
    write_text(tmp_path / "finished", "new")

    put_file(tmp_path / "finished", tmp_path / "answers")

    assert (tmp_path / "answers").read_text() == "new" and _names(tmp_path) == ["answers"]
    assert stat.S_IMODE((tmp_path / "answers").stat().st_mode) == 0o600


@pytest.mark.parametrize(("write", "exists"), [(write_text, True), (write_text, False), (create_text, False)])
def test_a_symlink_to_a_file_is_followed(tmp_path: Path, write: Callable[..., None], exists: bool) -> None:
    real, link = tmp_path / "disk" / "plan.json", tmp_path / "link"
    if exists:
        write_text(real, "old")
    link.symlink_to(real)

    write(link, "new")

    assert link.is_symlink() and not real.is_symlink() and real.read_text() == "new"
    assert _names(real.parent) == ["plan.json"] and _names(tmp_path) == ["disk", "link"]


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "dangling"])
def test_a_symlink_to_a_directory_is_followed(tmp_path: Path, exists: bool) -> None:
    real, link = tmp_path / "disk" / "best", tmp_path / "link"
    if exists:
        _write_directory(real, "old")
    link.symlink_to(real)

    _write_directory(link, "new")

    assert link.is_symlink() and _texts(real) == {"new"} and _names(real.parent) == ["best"]


def test_a_directory_is_added_where_a_dangling_or_empty_symlink_leads(tmp_path: Path) -> None:
    for name in ("dangling", "empty"):
        real, link = tmp_path / "disk" / name, tmp_path / name
        link.symlink_to(real)
        if name == "empty":
            real.mkdir()
        with temporary_directory(link) as temporary:
            (temporary / "rows").write_text("rows")
            assert add_directory(temporary, link)
        assert link.is_symlink() and (real / "rows").read_text() == "rows"


def test_removing_a_symlink_leaves_the_directory_it_leads_to(tmp_path: Path) -> None:
    _write_directory(tmp_path / "real", "mine")
    (tmp_path / "link").symlink_to(tmp_path / "real")

    remove_directory(tmp_path / "link")

    assert _names(tmp_path) == ["real"] and _texts(tmp_path / "real") == {"mine"}


def test_a_parent_directory_that_vanishes_is_not_created_again(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()

    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "work" / "part") as temporary:
        temporary.write_text("answers")
        shutil.rmtree(tmp_path / "work")

    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "work" / "part") as temporary:
        temporary.write_text("answers")
    assert not _names(tmp_path)


def test_creating_a_file_does_not_replace_an_existing_one(tmp_path: Path) -> None:
    create_text(tmp_path / "cluster" / "token", "first")
    create_text(tmp_path / "cluster" / "token", "second")

    assert (tmp_path / "cluster" / "token").read_text() == "first"
    assert _names(tmp_path / "cluster") == ["token"]


def test_a_directory_is_added_only_if_it_does_not_exist(tmp_path: Path) -> None:
    added = []
    for text in ("first", "second"):
        with temporary_directory(tmp_path / "new") as temporary:
            (temporary / "rows").write_text(text)
            added.append(add_directory(temporary, tmp_path / "data"))

    assert added == [True, False]
    assert (tmp_path / "data" / "rows").read_text() == "first" and _names(tmp_path) == ["data"]


def test_a_directory_cannot_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file")

    with pytest.raises(NotADirectoryError), temporary_directory(tmp_path / "answers") as temporary:
        put_directory(temporary, tmp_path / "answers")

    assert (tmp_path / "answers").read_text() == "a file"


def test_a_directory_is_renamed_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, seen = tmp_path / "index", list[bool]()
    _write_directory(directory, "whole")
    monkeypatch.setattr(shutil, "rmtree", lambda path: seen.append(directory.exists()))

    remove_directory(directory)

    assert seen == [False]


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bool]] = []
    directory = tmp_path / "data"
    monkeypatch.setattr(os, "fsync", lambda at: synced.append((os.fstat(at).st_ino, directory.exists())))

    with replace_directory(directory) as temporary:
        (temporary / "shards" / "0").mkdir(parents=True)
        (temporary / "shards" / "0" / "rows").write_text("rows")

    before = {number for number, was_there in synced if not was_there}
    assert {path.stat().st_ino for path in (directory, *directory.rglob("*"))} <= before
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def _write_directory(directory: Path, text: str) -> None:
    with replace_directory(directory) as temporary:
        for number in range(3):
            (temporary / f"part-{number}").write_text(text)


def _texts(directory: Path) -> set[str]:
    return {path.read_text() for path in directory.glob("part-*")}


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
