"""Private directories: nobody else gets in, they are short, and those of dead processes are removed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cluster import private
from jobs.cluster.processes import DIRECTORY_VARIABLE
from tests.kit.other_user import as_other_user, needs_other_user

WAITS = "import sys; sys.stdin.read()"


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short directory for temporary files, as every user may enter it."""
    path = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    path.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    monkeypatch.setattr(private, "MAX_PARENT_LENGTH", len(str(path)))
    yield path
    shutil.rmtree(path)


def test_a_private_directory_has_a_mode_and_a_path_that_fit(parent: Path) -> None:
    made = private.create()

    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert made.path.parent == parent
    made.remove()
    assert not made.path.exists()


def test_a_long_path_for_temporary_files_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 10)))
    made = private.create()
    made.remove()

    assert made.path.parent == Path(private.SHORT_PARENT)


@needs_other_user
def test_another_user_reaches_nothing_in_a_private_directory(parent: Path) -> None:
    made = private.create()
    inner = made.path / "r"
    inner.mkdir()
    inner.chmod(0o777)
    (inner / "file").write_text("secret")
    (inner / "file").chmod(0o666)

    assert as_other_user("cat", inner / "file").returncode != 0
    assert as_other_user("ls", made.path).returncode != 0
    assert as_other_user("ls", parent).returncode == 0
    made.remove()


def test_the_directory_of_a_dead_process_is_removed_by_the_next_and_a_used_one_is_not(parent: Path) -> None:
    used, dead = private.create(), private.create()
    (dead.path / "left").write_text("by a killed process")
    dead.release()
    foreign = parent / "shop-other"
    foreign.mkdir()

    following = private.create()

    assert not dead.path.exists()
    assert used.path.is_dir()
    assert foreign.is_dir(), "not made by `create`"
    used.remove()
    following.remove()


def test_a_directory_whose_cluster_has_processes_left_is_not_removed(parent: Path) -> None:
    made = private.create()
    made.release()
    environment = {**os.environ, DIRECTORY_VARIABLE: str(made.path)}
    with subprocess.Popen([sys.executable, "-c", WAITS], stdin=subprocess.PIPE, env=environment) as orphan:
        private.create().remove()
        assert made.path.is_dir()
        orphan.communicate(b"")

    private.create().remove()
    assert not made.path.exists()


def test_the_directory_of_the_user_is_private_and_not_a_link(parent: Path) -> None:
    path = private.user_directory()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o755)
    assert stat.S_IMODE(private.user_directory().stat().st_mode) == 0o700
    path.rmdir()
    path.symlink_to(parent)

    with pytest.raises(private.DirectoryRefused, match="is not a directory of this user; remove it"):
        private.user_directory()
