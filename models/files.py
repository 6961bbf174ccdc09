"""Files and directories written aside and renamed into place: a reader sees the old or the new, never half of one.

What is written aside lies beside its target, on the same file system, as `.<name>.<8 hexadecimal digits>`; every writer
has a name of its own. An exception removes it. A killed process leaves it behind, where nobody reads it, and the target
as it was. It is on the disk (fsync) before it is renamed: most of what is written so is later taken for whole because
it is there, and after a loss of power a name may be there before its content.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVER_AGE_S = 24 * 3600
"""What a killed writer has left may go when nothing in it has changed for this long."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of renameat2(2): paths are as usual; the two names are exchanged."""


def name_aside(path: Path) -> Path:
    """A name beside `path` that is hidden and nobody else's."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` at the end of the block; an exception leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = name_aside(path)
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        # SQLite has files of its own beside the one that it writes.
        for left in path.parent.glob(f"{glob.escape(aside.name)}*"):
            left.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file, or replace the one there is; `mode` goes through the umask."""
    with replace_file(path) as aside:
        _write_new(aside, text, mode=mode)


def create_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file unless there is one; of several writers at once the first stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = name_aside(path)
    try:
        _write_new(aside, text, mode=mode)
        _sync(aside)
        with suppress(FileExistsError):
            os.link(aside, path)
        _sync_directory(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def directory_aside(directory: Path) -> Iterator[Path]:
    """An empty directory beside `directory`, to be filled and put into place; what is left of it at the end goes."""
    aside = name_aside(directory)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replace_directory(directory: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `directory` at the end of the block; an exception leaves the old."""
    with directory_aside(directory) as aside:
        yield aside
        put_directory(aside, directory)


def put_directory(finished: Path, directory: Path) -> None:
    """Put a finished directory in the place of `directory`, and remove what was there; both on one file system.

    Where the system can exchange two names (Linux, on local file systems), there is a directory at every moment.
    Elsewhere there is none between two renames.
    """
    _sync_tree(finished)
    replaced = finished
    while not _rename_to_free_place(finished, directory):
        if _exchange(finished, directory):
            break
        replaced = name_aside(directory)
        with suppress(FileNotFoundError):  # another writer has just moved it
            directory.rename(replaced)
    _sync_directory(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def add_directory(finished: Path, directory: Path) -> bool:
    """Put a finished directory where there is none; returns False, and changes nothing, where there is one."""
    if directory.is_dir() and any(directory.iterdir()):
        return False
    _sync_tree(finished)
    is_added = _rename_to_free_place(finished, directory)
    _sync_directory(directory.parent)
    return is_added


def remove_directory(directory: Path) -> None:
    """Remove a directory, out of sight first: half of one could be taken for a whole one. Raises OSError."""
    shutil.rmtree(directory.rename(name_aside(directory)))


def leftovers(directory: Path, pattern: str = ".*") -> list[Path]:
    """Hidden entries that killed writers have left in a directory; one that still writes has changed its own lately."""
    found = []
    for path in directory.glob(pattern):
        with suppress(OSError):  # its writer ends just now, and removes it
            newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - newest >= LEFTOVER_AGE_S:
                found.append(path)
    return found


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_new(path: Path, text: str, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def _rename_to_free_place(finished: Path, directory: Path) -> bool:
    try:
        finished.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; returns False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _sync_tree(directory: Path) -> None:
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                _sync(path)
        _sync_directory(Path(folder))


def _sync_directory(directory: Path) -> None:
    with suppress(OSError):  # some network file systems have no such thing
        _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
