"""A chunk of a raw table: some rows of one file, and its lines that are not rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file, and the lines among them that could not be parsed: reason -> original lines."""

    rows: pa.Table
    broken: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()
    """What was inferred about the file and may surprise; in its first chunk only."""


def with_fields(rows: pa.Table) -> pa.Table:
    """Rows with a further column `a.b` for each field b of a nested column a, at any depth."""
    inner = rows
    while any(pa.types.is_struct(kind) for kind in inner.schema.types):
        inner = inner.flatten()
        for name, column in zip(inner.column_names, inner.columns, strict=True):
            if name not in rows.column_names:
                rows = rows.append_column(name, column)
    return rows
