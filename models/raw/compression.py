"""Decompresses files: gzip, bzip2, zstd, lz4, xz, or a zip archive of one file, detected by their first bytes."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from models.errors import DataRejected
from models.raw.files import Source

SUFFIXES = (".gz", ".gzip", ".bz2", ".zst", ".zstd", ".lz4", ".xz", ".zip")
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException)
"""Errors of a damaged or truncated file."""
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
_MAGIC_BYTES = max(map(len, _MAGIC))


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with `head`."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


@contextmanager
def opened(source: Source) -> Iterator[pa.NativeFile]:
    """The decompressed bytes of a file as a stream; raises DataRejected if it is damaged or an archive of many.

    Errors of opening it, such as FileNotFoundError, are not changed.
    """
    with source.filesystem.open_input_stream(source.path, compression=None) as stream:
        compression = compression_of(stream.read(_MAGIC_BYTES))
    with ExitStack() as stack:
        if compression == "zip":
            archive = stack.enter_context(_archive(source))
            stream = pa.PythonFile(stack.enter_context(_member(archive, source)), mode="r")
        else:
            arrow_compression = None if compression == "xz" else compression
            stream = stack.enter_context(
                source.filesystem.open_input_stream(source.path, compression=arrow_compression)
            )
        if compression == "xz":
            file: Any = stream
            stream = pa.PythonFile(stack.enter_context(lzma.open(file)), mode="r")
        try:
            yield stream
        except _DAMAGE as error:
            raise _damaged(source, error) from None


def member_name(source: Source) -> str:
    """The name of the only file in a zip archive; raises DataRejected if there are several."""
    with _archive(source) as archive:
        return _only_member(archive, source)


@contextmanager
def _archive(source: Source) -> Iterator[zipfile.ZipFile]:
    with source.filesystem.open_input_file(source.path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except NotImplementedError as error:  # made by a later version of the format
            raise DataRejected(f"cannot read {source.path}: {error}; unpack the archive first") from None
        except zipfile.BadZipFile as error:
            raise _damaged(source, error) from None
        with archive:
            yield archive


@contextmanager
def _member(archive: zipfile.ZipFile, source: Source) -> Iterator[Any]:
    name = _only_member(archive, source)
    try:
        member = archive.open(name)
    except RuntimeError as error:  # encrypted, or a compression that Python does not have
        raise DataRejected(f"cannot read {name} in {source.path}: {error}; unpack the archive first") from None
    with member:
        yield member


def _only_member(archive: zipfile.ZipFile, source: Source) -> str:
    names = [name for name in archive.namelist() if not _is_bookkeeping(name)]
    if "xl/workbook.xml" in names:
        raise DataRejected(f"{source.path} is an Excel workbook, which is not read; save the sheet as CSV")
    if len(names) != 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataRejected(
            f"{source.path} is a zip archive of {len(names)} files{f' ({listed})' if names else ''}; "
            "unpack it into a folder and give that, or an archive of one file"
        )
    return names[0]


def _damaged(source: Source, error: Exception) -> DataRejected:
    return DataRejected(f"cannot read {source.path}: {error}; the file is damaged or truncated; write it again")


def _is_bookkeeping(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.endswith("/") or parts[0] == "__MACOSX" or parts[-1].startswith(".")
