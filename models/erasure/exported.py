"""Erased users in folders of exported events: only files of exports are rewritten, whatever lies beside them."""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.erasure.erased import FOREVER, Erased
from models.events.event import SESSION
from models.events.exports import SEQ, STORE, export_of
from models.files import replace_file
from models.raw.ids import id_text

FORMATS = (".parquet", ".csv", ".jsonl")
CODECS = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".lz4": "lz4",
    ".br": "brotli",
}
"""Suffix of a compressed file -> its codec in Arrow."""
UNREADABLE = (OSError, ValueError, csv.Error, pa.ArrowException, lzma.LZMAError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Found:
    """The events of erased users in one file, or why it could not be searched or rewritten."""

    path: Path
    count: int = 0
    error: str | None = None


@dataclass(frozen=True)
class _Rows:
    """The rows of a file of exported events, and its content with only some of them."""

    users: Sequence[object]
    sessions: Sequence[object]
    content: Callable[[Sequence[bool]], bytes]


def clean_export(folder: Path, erased: Erased) -> list[Found]:
    """Delete the events of erased users from exported files, those of sessions in which only they logged in too.

    Each file is replaced atomically, under its name. Only regular files that have the columns of an export are touched;
    one that cannot be read is reported and left, and the others are cleaned all the same.
    """
    return _each(folder, erased, change=_rewrite)


def search_export(folder: Path, erased: Erased) -> list[Found]:
    """The same without a change: what is left in which file."""
    return _each(folder, erased, change=lambda path, rows, kept: None)


def _each(folder: Path, erased: Erased, *, change: Callable[[Path, _Rows, Sequence[bool]], None]) -> list[Found]:
    found: list[Found] = []
    users: dict[str, set[str]] = {}
    files: list[Path] = []
    try:
        paths = sorted(Path(entry.path) for entry in os.scandir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Found(folder, error=str(error))]
    for path in paths:
        try:
            rows = _read(path)
        except UNREADABLE as error:
            found.append(Found(path, error=f"{type(error).__name__}: {error}"))
            continue
        if rows is not None:
            files.append(path)
            for user, session in zip(rows.users, rows.sessions, strict=True):
                if user and session:
                    users.setdefault(str(session), set()).add(str(user))
    sessions = {session for session, own in users.items() if all(_is_erased(user, erased) for user in own)}
    for path in files:
        try:
            if (rows := _read(path)) is None:
                continue
            kept = [_is_kept(*row, erased, sessions) for row in zip(rows.users, rows.sessions, strict=True)]
            if not all(kept):
                change(path, rows, kept)
                found.append(Found(path, len(kept) - sum(kept)))
        except UNREADABLE as error:
            found.append(Found(path, error=f"{type(error).__name__}: {error}"))
    return found


def _is_erased(user_id: object, erased: Erased) -> bool:
    return erased.until(str(id_text(str(user_id)))) == FOREVER


def _is_kept(user_id: object, session_id: object, erased: Erased, sessions: Collection[str]) -> bool:
    if user_id:
        return not _is_erased(user_id, erased)
    return not session_id or (str(session_id) not in sessions and not _is_erased(f"{SESSION}{session_id}", erased))


def _rewrite(path: Path, rows: _Rows, kept: Sequence[bool]) -> None:
    content = rows.content(kept)
    if path.suffix == ".xz":
        content = lzma.compress(content)
    elif path.suffix in CODECS:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, CODECS[path.suffix]) as stream:
            stream.write(content)
        content = sink.getvalue().to_pybytes()
    with replace_file(path) as temporary:
        temporary.write_bytes(content)


def _read(path: Path) -> _Rows | None:
    """The rows of a file; None if it is no export. Raises one of UNREADABLE if it may be one and cannot be read."""
    is_named = export_of(path.name) is not None
    suffix = path.suffix if path.suffix in FORMATS else Path(path.stem).suffix
    if not is_named and (suffix not in FORMATS or path.suffix not in (*FORMATS, *CODECS, ".xz")):
        return None
    if not stat.S_ISREG(path.lstat().st_mode):
        if is_named and path.is_symlink():
            raise ValueError("it is a symbolic link, which is not followed")
        return None
    if suffix != path.suffix and path.suffix not in (*CODECS, ".xz"):
        raise ValueError(f"files that are compressed as {path.suffix} are not supported")
    content = _content(path)
    rows = {".parquet": _of_parquet, ".csv": _of_csv, ".jsonl": _of_jsonl}[suffix](content)
    if rows is None and is_named and content:
        raise ValueError(f"it has the name of an export, but not the columns {SEQ} and {STORE}")
    return rows


def _content(path: Path) -> bytes:
    # The name may have changed since it was looked at: neither follow a link nor wait for the writer of a pipe.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        if path.suffix == ".xz":
            return lzma.decompress(file.read())
        if path.suffix in CODECS:
            with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), CODECS[path.suffix]) as stream:
                return stream.read()
        return file.read()


def _are_of_export(names: Collection[str]) -> bool:
    return SEQ in names and STORE in names


def _of_parquet(content: bytes) -> _Rows | None:
    if not _are_of_export(pq.read_schema(pa.BufferReader(pa.py_buffer(content))).names):
        return None
    table = pq.read_table(pa.BufferReader(pa.py_buffer(content)))

    def remade(kept: Sequence[bool]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(table.filter(pa.array(kept)), sink)
        return sink.getvalue().to_pybytes()

    none = [None] * table.num_rows
    users, sessions = (
        table[name].to_pylist() if name in table.column_names else none for name in ("user_id", "session_id")
    )
    return _Rows(users, sessions, remade)


def _of_csv(content: bytes) -> _Rows | None:
    first = content.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
    if not _are_of_export(next(csv.reader([first]), [])):
        return None
    names, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))

    def remade(kept: Sequence[bool]) -> bytes:
        file = io.StringIO(newline="")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(row for row, is_kept in zip(rows, kept, strict=True) if is_kept)
        return file.getvalue().encode()

    def column(name: str) -> list[object]:
        at = names.index(name) if name in names else len(names)
        return [row[at] if at < len(row) else None for row in rows]

    return _Rows(column("user_id"), column("session_id"), remade)


def _of_jsonl(content: bytes) -> _Rows | None:
    lines = [line for line in content.split(b"\n") if line.strip()]
    rows = _objects(lines)
    first = next(rows, None)
    if first is None or not _are_of_export(first):
        return None
    parsed = [first, *rows]

    def remade(kept: Sequence[bool]) -> bytes:
        return b"".join(line + b"\n" for line, is_kept in zip(lines, kept, strict=True) if is_kept)

    return _Rows([row.get("user_id") for row in parsed], [row.get("session_id") for row in parsed], remade)


def _objects(lines: Sequence[bytes]) -> Iterator[dict[str, object]]:
    for number, line in enumerate(lines, start=1):
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        yield row
