"""Tombstones: salted hashes that hold at once in every process, and are never taken for absent."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.erasure.erased import FOREVER, checked_id
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "erased.sqlite"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users of the machine can list, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_nobody_is_erased_without_a_file(path: Path) -> None:
    tombstones = Tombstones(path)

    assert not tombstones.has("u1")
    assert not tombstones.erased()
    assert tombstones.last_seq == 0
    assert not path.exists()


def test_an_erased_user_is_known_to_every_reader_at_once(path: Path) -> None:
    reader = Tombstones(path)
    assert not reader.has("u1")

    Tombstones(path).add(["u1"])

    assert reader.has("u1")
    assert reader.erased_of(["u1", "u2", None]) == [True, False, False]


def test_another_process_is_noticed_by_the_next_look_up(path: Path) -> None:
    reader = Tombstones(path)
    reader.add(["u1"])
    code = (
        "import sys, pathlib; from models.erasure.tombstones import Tombstones; "
        "Tombstones(pathlib.Path(sys.argv[1])).add(['u2'])"
    )

    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    assert reader.has("u2")


def test_a_file_that_was_restored_from_a_backup_is_noticed(path: Path) -> None:
    reader = Tombstones(path)
    reader.add(["u1"])
    backup = path.read_bytes()
    reader.add(["u2"])

    path.with_suffix(".new").write_bytes(backup)
    path.with_suffix(".new").rename(path)

    assert reader.erased_of(["u1", "u2"]) == [True, False]


def test_the_file_has_no_id_and_only_its_owner_reads_it(path: Path) -> None:
    Tombstones(path).add(["anna.schmidt@example.org"])

    assert b"anna" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_stores_have_different_hashes_of_one_id(tmp_path: Path) -> None:
    one, other = Tombstones(tmp_path / "a.sqlite"), Tombstones(tmp_path / "b.sqlite")

    assert one.digest("u1") != other.digest("u1")


@pytest.mark.parametrize("given", ["10001", 10001, 10001.0, "10001.0", " 10001 "])
def test_an_id_is_the_same_in_every_form(path: Path, given: object) -> None:
    Tombstones(path).add([checked_id(given)])

    assert Tombstones(path).has("10001")
    assert Tombstones(path).has("10001.0")


@pytest.mark.parametrize("given", ["", "  ", "a\x00b", "x" * 257, "\ud800", None, ["u1"], 2.0**60])
def test_an_id_that_nobody_can_have_is_refused_and_nothing_is_written(path: Path, given: object) -> None:
    with pytest.raises(ValueError, match="is not a user id"):
        Tombstones(path).add([given])  # type: ignore[list-item]

    assert not path.exists()


def test_adding_again_changes_nothing(path: Path) -> None:
    tombstones = Tombstones(path)

    assert tombstones.add(["u1", "u2", "u1"]) == [True, True, False]
    assert tombstones.add(["u1"]) == [False]
    assert tombstones.last_seq == 2


def test_a_new_consent_keeps_what_was_before_erased(path: Path) -> None:
    tombstones = Tombstones(path)
    tombstones.add(["u1"])
    assert tombstones.erased().until("u1") == FOREVER

    assert tombstones.lift("u1", now_s=100.0)

    assert not tombstones.has("u1")
    assert tombstones.erased().until("u1") == 100.0
    assert not tombstones.lift("u1")
    assert not tombstones.lift("stranger")
    assert tombstones.add(["u1"]) == [True]
    assert tombstones.has("u1")


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_damaged_file_is_an_error_and_nobody_is_taken_for_known(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(TombstonesUnreadable, match=r"erased\.sqlite, which says who is erased, cannot be read"):
        Tombstones(path).has("u1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_second_user_of_the_machine_can_neither_read_nor_add(open_directory: Path) -> None:
    path = open_directory / "erased.sqlite"
    Tombstones(path).add(["u1"])

    child = os.fork()
    if child == 0:
        os.setuid(65534)
        failures = 0
        for ask in (lambda: Tombstones(path).has("u1"), lambda: Tombstones(path).add(["u2"])):
            try:
                ask()
            except TombstonesUnreadable:
                failures += 1
        os._exit(failures)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_a_killed_writer_leaves_a_file_that_the_next_one_repairs(path: Path) -> None:
    Tombstones(path).add(["u1"])
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN'); "
        "c.executemany('INSERT INTO erased VALUES (?, 9, 0, NULL)', [(os.urandom(16),) for _ in range(5000)]); "
        "os.kill(os.getpid(), 9)"
    )

    subprocess.run([sys.executable, "-c", code, str(path)], check=False)

    reader = Tombstones(path)
    assert reader.has("u1")
    assert reader.last_seq == 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("user_id", ["anna.schmidt", "John Smith", "a|b", "u-7", "anna@shop.example"])
@pytest.mark.parametrize(
    "line", ["W user {}: unknown", "GET /v1/users/{} x", "user_id:{}", "{}.", "`{}`!", "forgot '{}'", "{}"]
)
def test_a_line_that_quotes_an_erased_id_is_recognised(path: Path, user_id: str, line: str) -> None:
    tombstones = Tombstones(path)
    tombstones.add([user_id])

    assert tombstones.erased().quotes(line.format(user_id))
    assert not tombstones.erased().quotes(line.format("somebody-else"))
