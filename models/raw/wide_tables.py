"""Wide tables of sales, one column for each period, as rows of one period each."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa

from models.raw.chunks import Chunk
from models.raw.ids import as_text

MIN_PERIODS = 4
_PERIOD = re.compile(r"^\d{4}[-/.]\d{2}([-/.]\d{2})?$|^\d{4}-?W\d{2}$")


def as_long(chunk: Chunk) -> Chunk:
    """The rows of a table whose column names are dates as one row for each date; other tables as they are."""
    names = chunk.rows.column_names
    periods = [name for name in names if _PERIOD.match(name)]
    if len(periods) < MIN_PERIODS or "timestamp" in names or "units" in names or not chunk.rows.num_rows:
        return chunk
    others = [name for name in names if name not in periods]
    count = chunk.rows.num_rows
    rows = pa.array(np.tile(np.arange(count), len(periods)))
    units = pa.concat_arrays([chunk.rows[name].combine_chunks() for name in periods])
    long = chunk.rows.select(others).take(rows)
    long = long.append_column("timestamp", pa.array(np.repeat(periods, count).tolist(), pa.string()))
    long = long.append_column("units", units)
    known = as_text(units)[0].is_valid()
    note = f"a wide table: {len(periods)} columns are periods, from {periods[0]} to {periods[-1]}"
    # An empty cell of a wide table is a period that is not known, not a bad row.
    return replace(chunk, rows=long.filter(known), notes=(*chunk.notes, note))
