"""Erased users in quarantine: bad rows that quote an erased id are deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.erasure.erased import Erased
from models.files import replace_file


def copy_quarantine(source: Path, target: Path, erased: Erased) -> int:
    """Copy a quarantine without the rows that quote an erased id; returns how many these are."""
    if not source.is_dir():
        return 0
    shutil.copytree(source, target)
    return clean_quarantine(target, erased)


def clean_quarantine(directory: Path, erased: Erased) -> int:
    """Delete the rows that quote an erased id, anywhere in their content; returns how many these are.

    A value that only happens to equal the id, such as a quantity, counts too: its row is lost for the diagnosis of the
    log, which matters less than a row that is left.
    """
    num_deleted = 0
    for path in sorted(directory.glob("*.parquet")) if directory.is_dir() else ():
        table = pq.read_table(path)
        is_kept = [not _is_quoted(row, erased) for row in table["row"].to_pylist()]
        if all(is_kept):
            continue
        num_deleted += len(is_kept) - sum(is_kept)
        with replace_file(path) as temporary:
            pq.write_table(table.filter(pa.array(is_kept)), temporary, compression="zstd")
    return num_deleted


def quoting_rows(table: pa.Table, erased: Erased) -> int:
    """How many rows of a quarantine quote an erased id."""
    return sum(_is_quoted(row, erased) for row in table["row"].to_pylist())


def _is_quoted(row: str | None, erased: Erased) -> bool:
    if row is None:
        return False
    try:
        return erased.is_in(json.loads(row))
    except ValueError:
        return erased.quotes(row)
