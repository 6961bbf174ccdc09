"""Quarantine of bad rows: each with its reason, file and original content, so that it can be fixed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.raw.encodings import escaped_text

MAX_EXPLAINED = 3
"""Reasons of bad rows that people are shown with an example."""
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


@dataclass
class Quarantine:
    """Writes bad rows to one Parquet file (reason, source, row as JSON text) and counts them; closed by `with`."""

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    _writer: pq.ParquetWriter | None = None

    SCHEMA = pa.schema([("reason", pa.string()), ("source", pa.string()), ("row", pa.large_string())])

    def add_rows(self, rows: pa.Table, *, reasons: pa.Array, source: str) -> None:
        """Keep bad rows; `reasons` is a string array, one per row."""
        self._add(reasons, rows=rows_as_json(rows), source=source)

    def add_lines(self, lines: Sequence[str], *, reason: str, source: str) -> None:
        """Keep lines that cannot be parsed as rows."""
        rows = [json.dumps({"line": line}, ensure_ascii=False) for line in lines]
        self._add(pa.array([reason] * len(rows), pa.string()), rows=rows, source=source)

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, reasons: pa.Array, *, rows: list[str], source: str) -> None:
        if not rows:
            return
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self.path, self.SCHEMA, compression="zstd")
        sources = pa.array([source], pa.string()).take(pa.repeat(0, len(rows)))
        self._writer.write_table(pa.table([reasons, sources, pa.array(rows, pa.large_string())], schema=self.SCHEMA))
        for entry in pc.value_counts(reasons).to_pylist():
            self.counts[entry["values"]] = self.counts.get(entry["values"], 0) + entry["counts"]


def check_bad(
    source: str,
    bad: Mapping[str, int],
    *,
    total: int,
    max_fraction: float,
    explained: Mapping[str, str],
    what: str = "rows",
    num_skipped: int = 0,
) -> None:
    """Raise DataRejected if a larger fraction of the `total` rows than allowed is bad, or if none is good.

    `bad` has the number of rows by reason, `explained` what the message says for each, such as an example and a remedy;
    skipped rows are neither bad nor good.
    """
    num_bad = sum(bad.values())
    fraction, is_any_good = num_bad / total, num_bad + num_skipped < total
    if fraction <= max_fraction and is_any_good:
        return
    reasons = "; ".join(f"{count:,} {explained[reason]}" for reason, count in most_frequent(bad))
    raise DataRejected(
        f"{source}: {num_bad:,} of {total:,} {what} ({fraction:.1%}) are bad, more than --max-bad-fraction "
        f"{max_fraction:g} allows: {reasons}. To continue, {_remedy(fraction, is_any_good=is_any_good)}"
    )


def most_frequent(bad: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent reasons of bad rows, which people are shown, with their numbers of rows."""
    return Counter(bad).most_common(MAX_EXPLAINED)


def _remedy(bad_fraction: float, *, is_any_good: bool) -> str:
    """How to fix too many bad rows, as the end of a sentence: the --max-bad-fraction that would accept them."""
    if not is_any_good:
        return "fix them"
    # Rounded up, or the shown fraction would not be enough; times 100 may be off by a rounding error.
    enough = math.ceil(round(bad_fraction * 100, 9)) / 100
    return f"fix them, or accept them with --max-bad-fraction {enough:g}"


def rows_as_json(rows: pa.Table) -> list[str]:
    """Each row as one JSON object, for columns of any type."""
    if rows.num_rows == 0:
        return []
    columns = [_printable(column) for column in rows.columns]
    unique = [name if rows.column_names.count(name) == 1 else f"{name}#{n}" for n, name in enumerate(rows.column_names)]
    frame = pa.table(columns, names=unique).to_pandas(types_mapper=_NULLABLE.get)
    text = frame.to_json(orient="records", lines=True, force_ascii=False, double_precision=15)
    return str(text).rstrip("\n").split("\n")


def _printable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.DictionaryType):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.chunked_array([escaped_text(column.combine_chunks())], pa.string())
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    return column
