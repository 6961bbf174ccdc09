"""Sets the rows of erased users aside before anything else looks at them, so that no file of prepared data has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.erasure.erased import FOREVER, Erased
from models.raw.ids import as_text
from models.raw.tables import LINE, Chunk, Source
from models.recommender.prepare.held_events import has_own_columns


def set_aside(chunk: Chunk, source: Source, columns: Mapping[str, str], erased: Erased) -> tuple[Chunk, pa.Table, int]:
    """A chunk without what is of erased users, their rows, and how many lines that cannot be parsed quote their ids."""
    if not erased:
        return chunk, chunk.rows.slice(0, 0), 0
    broken = {reason: [line for line in lines if not erased.quotes(line)] for reason, lines in chunk.broken.items()}
    num_lines = sum(map(len, chunk.broken.values())) - sum(map(len, broken.values()))
    if has_own_columns(chunk.rows.column_names, columns, source.path):
        columns = {}
    is_erased = rows_of(chunk.rows, LINE if source.format == "sequences" else columns.get("user_id", "user_id"), erased)
    kept = replace(
        chunk,
        rows=chunk.rows.filter(pc.invert(is_erased)),
        broken={reason: lines for reason, lines in broken.items() if lines},
    )
    return kept, chunk.rows.filter(is_erased), num_lines


def without_erased(chunk: Chunk, source: Source, *, columns: Mapping[str, str], erased: Erased) -> Chunk:
    """A chunk of a log without what is of erased users, for a pass that counts nothing."""
    return set_aside(chunk, source, columns, erased)[0]


def rows_of(rows: pa.Table, user_column: str, erased: Erased) -> pa.Array:
    """Which rows are of erased users, whenever they were; of sequences the user is the first word of a line."""
    if user_column not in rows.column_names or pa.types.is_nested(rows.schema.field(user_column).type):
        return pa.repeat(False, rows.num_rows)
    column = rows[user_column].combine_chunks()
    if user_column == LINE:
        column = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"(?s)\s.*", "")
    encoded = column if isinstance(column, pa.DictionaryArray) else pc.dictionary_encode(column)
    text, _ = as_text(encoded.dictionary)
    is_erased = np.append(erased.until_each(text) > -FOREVER, False)
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(text)).to_numpy(zero_copy_only=False)
    return pa.array(is_erased[codes])


def since_consent(good: pa.Table, erased: Erased) -> pa.Table:
    """Of the good events of erased users, those after they have consented anew."""
    return good.filter(pa.array(good["time_us"].to_numpy() >= erased.until_each(good["user_id"]) * 1e6))
