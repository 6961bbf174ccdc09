"""The record of copies of events outside a store: exports, which an erasure rewrites, and backups, which it names."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from models.erasure.erased import FOREVER, Erased
from models.files import replace_file, write_text
from models.raw.ids import id_text

RECORD = "copies.json"
SUFFIXES = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Copy:
    """A copy of events: a folder of exported files, or a backup."""

    kind: Literal["export", "backup"]
    path: Path


def record_copy(root: Path, kind: Literal["export", "backup"], path: Path) -> None:
    """Record where a copy of the events of a store was written, so that an erasure finds it."""
    known = {(each.kind, str(each.path)) for each in recorded_copies(root)} | {(kind, str(path.absolute()))}
    listed = [{"kind": kind, "path": path} for kind, path in sorted(known)]
    write_text(root / RECORD, json.dumps(listed, indent=1, ensure_ascii=False) + "\n", mode=0o600)


def recorded_copies(root: Path) -> list[Copy]:
    """All copies that were recorded, whether or not they still exist."""
    path = root / RECORD
    if not path.is_file():
        return []
    return [Copy(each["kind"], Path(each["path"])) for each in json.loads(path.read_text(encoding="utf-8"))]


def clean_export(folder: Path, erased: Erased) -> int:
    """Delete the events of erased users from exported files, those of sessions in which only they logged in too.

    Returns how many. Each file is replaced atomically, under its name.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES) if folder.is_dir() else []
    users: dict[str, set[str]] = {}
    for path in files:
        for row in _rows(path):
            if row.get("user_id") and row.get("session_id"):
                users.setdefault(str(row["session_id"]), set()).add(str(row["user_id"]))
    sessions = {session for session, own in users.items() if all(_is_erased(user, erased) for user in own)}
    return sum(_clean_file(path, erased, sessions) for path in files)


def _is_erased(user_id: object, erased: Erased) -> bool:
    return erased.until(str(id_text(str(user_id)))) == FOREVER


def _is_kept(row: dict[str, Any], erased: Erased, sessions: Collection[str]) -> bool:
    user_id, session_id = row.get("user_id"), row.get("session_id")
    if user_id:
        return not _is_erased(user_id, erased)
    return not session_id or (str(session_id) not in sessions and not _is_erased(f"session:{session_id}", erased))


def _clean_file(path: Path, erased: Erased, sessions: Collection[str]) -> int:
    rows = list(_rows(path))
    kept = [_is_kept(row, erased, sessions) for row in rows]
    if all(kept):
        return 0
    with replace_file(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pq.read_table(path).filter(pa.array(kept)), temporary)
        else:
            _write_lines(path, temporary, [row for row, is_kept in zip(rows, kept, strict=True) if is_kept])
    return len(kept) - sum(kept)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        columns = [name for name in ("user_id", "session_id") if name in pq.read_schema(path).names]
        yield from pq.read_table(path, columns=columns).to_pylist()
        return
    with path.open(encoding="utf-8", newline="") as file:
        yield from (
            csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file if line.strip())
        )


def _write_lines(source: Path, target: Path, rows: Sequence[dict[str, Any]]) -> None:
    with _header(source) as names, target.open("w", encoding="utf-8", newline="") as file:
        if source.suffix == ".csv":
            writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def _header(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield next(csv.reader(file), []) if path.suffix == ".csv" else []
