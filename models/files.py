"""Atomic replacement of files and directories: a reader sees the old one or the new one, never a partial one.

A writer fills a temporary file or directory next to the target, on the same file system, named
`.<name>.<8 hexadecimal digits>` and unique to the writer, and renames it. An exception removes it. A killed process
leaves it behind, where nothing reads it, and the target unchanged. It is synced to disk before it is renamed: readers
take an existing name for a complete file, and after a power loss a name may exist before its content does.
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
"""Leftovers of killed writers may be removed when nothing in them has changed for this long."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of renameat2(2): paths are relative to the working directory; the two names are exchanged."""


def temporary_path(path: Path) -> Path:
    """A hidden, unique path next to `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` at the end of the block; an exception leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        # SQLite creates auxiliary files next to its own.
        for leftover in path.parent.glob(f"{glob.escape(temporary.name)}*"):
            leftover.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write or replace a text file; `mode` is subject to the umask."""
    with replace_file(path) as temporary:
        _write_new(temporary, text, mode=mode)


def create_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file unless it exists; of several concurrent writers the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        _write_new(temporary, text, mode=mode)
        _sync(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_directory(directory: Path) -> Iterator[Path]:
    """An empty directory next to `directory`, to be filled and moved there; removed at the end if it was not moved."""
    temporary = temporary_path(directory)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replace_directory(directory: Path) -> Iterator[Path]:
    """A temporary directory that replaces `directory` at the end of the block; an exception leaves the old one."""
    with temporary_directory(directory) as temporary:
        yield temporary
        put_directory(temporary, directory)


def put_directory(finished: Path, directory: Path) -> None:
    """Replace `directory` by a finished directory of the same file system, and remove the old one.

    Where the system can exchange two names (Linux, on local file systems), `directory` exists at every moment.
    Elsewhere it is missing between two renames.
    """
    _sync_tree(finished)
    replaced = finished
    while not _rename_if_free(finished, directory):
        if _exchange(finished, directory):
            break
        replaced = temporary_path(directory)
        with suppress(FileNotFoundError):  # another writer has just moved it
            directory.rename(replaced)
    _sync_directory(directory.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def add_directory(finished: Path, directory: Path) -> bool:
    """Move a finished directory to `directory`; returns False, and changes nothing, if that exists already."""
    if directory.is_dir() and any(directory.iterdir()):
        return False
    _sync_tree(finished)
    is_added = _rename_if_free(finished, directory)
    _sync_directory(directory.parent)
    return is_added


def remove_directory(directory: Path) -> None:
    """Remove a directory after renaming it, so that no reader sees a partial one. Raises OSError."""
    shutil.rmtree(directory.rename(temporary_path(directory)))


def leftovers(directory: Path, pattern: str = ".*") -> list[Path]:
    """Hidden entries that killed writers left in a directory: those without a recent change."""
    found = []
    for path in directory.glob(pattern):
        with suppress(OSError):  # its writer may be removing it right now
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


def _rename_if_free(finished: Path, directory: Path) -> bool:
    try:
        finished.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(first: Path, second: Path) -> bool:
    """Atomically exchange two names; returns False where the system or the file system cannot."""
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
    with suppress(OSError):  # some network file systems do not support it
        _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
