"""Atomic replacement of files and directories: a reader sees the old one or the new one, never a partial one.

A writer fills a temporary file or directory next to the target, on the same file system, named
`.<name>.<8 hexadecimal digits>` and unique to the writer, and renames it. An exception removes it. A killed process
leaves it behind, where nothing reads it, and the target unchanged. It is synced to disk before it is renamed: readers
take an existing name for a complete file, and after a power loss a name may exist before its content does.

A symlink at the target is followed: the file or directory it points to is replaced, and the link stays.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVER_AGE_S = 24 * 3600
"""Leftovers of killed writers may be removed when nothing in them has changed for this long."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of renameat2(2): paths are relative to the working directory; the two names are exchanged."""


def real_path(path: Path) -> Path:
    """The absolute path that `path` leads to through symlinks, whether or not it exists."""
    return Path(os.path.realpath(path))


def temporary_path(path: Path) -> Path:
    """A hidden, unique path next to the file or directory that `path` leads to."""
    target = real_path(path)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")


@contextmanager
def replace_file(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """A temporary file that replaces `path` at the end of the block; an exception leaves the old one.

    `mode` is subject to the umask; without one, the file keeps the mode of the old one. The parent directory must
    exist: if it is removed during the block, it is not created again, and FileNotFoundError is raised.
    """
    temporary, final_mode = temporary_path(path), mode
    try:
        if mode is None and (final_mode := _mode(path)) is not None:
            _create(temporary, final_mode)
        elif mode is not None:
            final_mode = _create(temporary, mode) & mode
        yield temporary
        put_file(temporary, path, mode=final_mode)
    finally:
        # SQLite creates auxiliary files next to its own.
        for leftover in temporary.parent.glob(f"{glob.escape(temporary.name)}*"):
            leftover.unlink(missing_ok=True)


def put_file(finished: Path, path: Path, *, mode: int | None = None) -> None:
    """Replace `path` by a finished file of the same file system; without a mode, it gets that of the old one."""
    target = real_path(path)
    if (final_mode := _mode(target) if mode is None else mode) is not None:
        finished.chmod(final_mode)
    _sync(finished)
    finished.replace(target)
    _sync_directory(target.parent)


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write or replace a text file, in a directory that is created if needed; for `mode` see `replace_file`."""
    real_path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def create_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a text file unless it exists; of several concurrent writers the first wins."""
    target = real_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    try:
        _create(temporary, mode)
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        with suppress(FileExistsError):
            os.link(temporary, target)
        _sync_directory(target.parent)
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
    directory = real_path(directory)
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
    directory = real_path(directory)
    if directory.is_dir() and any(directory.iterdir()):
        return False
    _sync_tree(finished)
    is_added = _rename_if_free(finished, directory)
    _sync_directory(directory.parent)
    return is_added


def remove_directory(directory: Path) -> None:
    """Remove a directory after renaming it, so that no reader sees a partial one. Raises OSError.

    Of a symlink only the link is removed.
    """
    if directory.is_symlink():
        directory.unlink()
    else:
        shutil.rmtree(directory.rename(temporary_path(directory)))


def leftovers(directory: Path, *names: str) -> list[Path]:
    """What killed writers of these names left in a directory: temporary paths without a recent change."""
    found = []
    for path in (path for name in names for path in directory.glob(f".{glob.escape(name)}.{'[0-9a-f]' * 8}")):
        with suppress(OSError):  # its writer may be removing it right now
            newest = max(part.lstat().st_mtime for part in (path, *path.rglob("*")))
            if time.time() - newest >= LEFTOVER_AGE_S:
                found.append(path)
    return found


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mode(path: Path) -> int | None:
    """The permissions of a file; None if there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _create(path: Path, mode: int) -> int:
    """Create an empty file that its owner can write, and nobody else read unless `mode` says so; returns its mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode | stat.S_IRUSR | stat.S_IWUSR)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


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


def is_same_directory(first: Path, second: Path) -> bool:
    """Whether two paths lead to one directory, as through a symbolic link."""
    try:
        return first == second or first.samefile(second)
    except OSError:
        return False
