"""Directories for temporary files that no other user can enter, and their removal after their process has died."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.processes import members

PREFIX = "shop-"
LOCK = "in-use"
"""A file in each directory that is locked while its process lives, which also other containers can see."""
MAX_PARENT_LENGTH = 11
"""The path of HAProxy's admin socket is 96 characters longer, and the limit is 107."""
SHORT_PARENT = "/tmp"


class DirectoryRefused(Exception):
    """A directory that has to be private belongs to someone else."""


@dataclass(frozen=True)
class PrivateDirectory:
    """A new directory of this user, and its lock."""

    path: Path
    lock: int
    """File descriptor; the directory counts as used while this process, or a child that inherited it, has it open."""

    def release(self) -> None:
        """Give the lock up; a child may keep it."""
        os.close(self.lock)

    def remove(self) -> None:
        """Remove the directory and release the lock."""
        remove(self.path)
        self.release()


def create() -> PrivateDirectory:
    """A new private directory with a path short enough for Ray's and HAProxy's sockets; removes those of the dead.

    Ray makes its own directory readable and writable for everyone, so it has to be below this one.
    """
    parent = _parent()
    _remove_dead(parent)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return PrivateDirectory(path, lock)


def remove(path: Path) -> None:
    """Remove a private directory; whatever a dying process still holds is left for the next `create`."""
    for inner in path.glob("*"):
        if inner.name == LOCK:
            continue
        shutil.rmtree(inner, ignore_errors=True) if inner.is_dir() else inner.unlink(missing_ok=True)
    if not any(inner.name != LOCK for inner in path.glob("*")):
        shutil.rmtree(path, ignore_errors=True)


def user_directory() -> Path:
    """The one private directory of this user below the system's for temporary files, which all verbs share.

    Raises DirectoryRefused if another user has put something else there.
    """
    path = Path(tempfile.gettempdir()) / f"shopkeeper-{os.getuid()}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DirectoryRefused(f"{path} is not a directory of this user; remove it, or set TMPDIR to another directory")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def _parent() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= MAX_PARENT_LENGTH else SHORT_PARENT)


def _remove_dead(parent: Path) -> None:
    for path in _unlocked(parent):
        if not members(path):
            remove(path)


def _unlocked(parent: Path) -> Iterator[Path]:
    for path in parent.glob(f"{PREFIX}*"):
        try:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            with (path / LOCK).open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or of another kind
            continue
        yield path
