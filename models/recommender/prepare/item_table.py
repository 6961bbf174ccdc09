"""The item table: one row of attributes per item of the vocabulary, however many rows the shop's table has for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.ids import as_text, refuse_nested
from models.raw.joins import ITEM_TABLE, join_ids
from models.raw.quarantine import Quarantine
from models.raw.tables import LINE, Chunk, Source, check_utf8, read
from models.recommender.item_features import VALUE_SEPARATOR

MAX_LOOSE_ROWS = 1_000_000
_NUMBER = r"^-?(0|[1-9]\d{0,14})(\.\d+)?$"
_WHOLE = r"^-?\d+$"
_VECTOR = r"^[-+.\deE]+(\|[-+.\deE]+){7,}$"
_COUNTS = pa.schema([("item_id", pa.string()), ("value", pa.string()), ("rows", pa.int64())])


def read_items(
    sources: list[Source],
    *,
    columns: Mapping[str, str],
    vocabulary: pa.Array,
    quarantine: Quarantine,
    keep: Callable[[Chunk, Source], Chunk] | None = None,
) -> tuple[pa.Table, list[str]]:
    """Attributes in the order of the vocabulary: the most frequent value of each item, the smallest one at a tie.

    Also returns the names of the columns that were left out, since they hold objects.

    An attribute is numeric where all its values are plain numbers, a vector where they are lists of at least eight
    numbers, else text. Rows of items outside the vocabulary are dropped; those without an item id are quarantined.
    `keep` leaves rows of a chunk out, such as those of erased users where the table is the log.
    """
    counts: dict[str, list[pa.Table]] = {}
    left_out: set[str] = set()
    for source in sources:
        for chunk in read(source):
            chunk = chunk if keep is None else keep(chunk, source)
            for reason, lines in chunk.broken.items():
                quarantine.add_lines(lines, reason=f"item_table_{reason}", source=source.path)
            if chunk.rows.num_rows:
                left_out |= _left_out(chunk.rows.schema, columns)
                _count(chunk.rows, columns, source=source, vocabulary=vocabulary, counts=counts, quarantine=quarantine)
    attributes = {name: _most_frequent(pa.concat_tables(tables), vocabulary) for name, tables in counts.items()}
    table = pa.table({"item_id": vocabulary, **{name: attributes[name] for name in sorted(attributes)}})
    return table, sorted(left_out)


def read_item_ids(sources: list[Source], *, columns: Mapping[str, str], excluded: Collection[str]) -> pa.Array:
    """The distinct item ids of the item table, unordered, without `excluded`."""
    distinct = pa.array([], pa.string())
    for source in sources:
        for chunk in read(source):
            if chunk.rows.num_rows:
                mapping = _find_columns(chunk.rows, columns, source=source.path)
                check_utf8(chunk.rows, [mapping["item_id"]], source=source)
                item, _ = as_text(_flat(chunk.rows[mapping["item_id"]]))
                distinct = pc.unique(pa.concat_arrays([distinct, pc.unique(item).drop_null()]))
    return distinct.filter(pc.invert(pc.is_in(distinct, value_set=pa.array(sorted(excluded), pa.string()))))


def join_items(in_log: pa.Array, table_items: pa.Array, *, table: str) -> dict[str, Any]:
    """For the card: how many items of the log have a row in the item table; DataRejected if none has."""
    name = f"the {ITEM_TABLE} {table}"
    remedy = "name the column of the ids: --item-columns item_id=..."
    if not len(table_items):
        raise DataRejected(f"no row of {name} has an item id; {remedy}")
    join = join_ids(in_log, table_items, names=("the log", name), remedy=remedy)
    return join.as_card()


def written_at_s(sources: list[Source]) -> float:
    """Epoch seconds at which the newest file of the item table was written; now where the file system does not say.

    What a shop puts later is newer than the table, also while the table waits to be prepared.
    """
    times = [source.filesystem.get_file_info(source.path).mtime_ns for source in sources]
    return max((time_ns / 1e9 for time_ns in times if time_ns), default=time.time())


def _count(
    rows: pa.Table,
    columns: Mapping[str, str],
    *,
    source: Source,
    vocabulary: pa.Array,
    counts: dict[str, list[pa.Table]],
    quarantine: Quarantine,
) -> None:
    """Add the (item, value) pairs of some rows to the counts of each attribute."""
    mapping = _find_columns(rows, columns, source=source.path)
    check_utf8(rows, mapping.values(), source=source)
    item, _ = as_text(_flat(rows[mapping["item_id"]]))
    missing = pc.is_null(item)
    if pc.any(missing).as_py():
        reasons = pa.array(["item_table_missing_item_id"]).take(pa.repeat(0, pc.sum(missing).as_py()))
        quarantine.add_rows(rows.filter(missing), reasons=reasons, source=source.path)
    wanted = pc.is_in(item, value_set=vocabulary)
    for ours, theirs in mapping.items():
        if ours == "item_id":
            continue
        value, _ = as_text(_flat(rows[theirs]))
        pairs = pa.table({"item_id": item, "value": value}).filter(pc.and_(wanted, pc.is_valid(value)))
        tables = counts.setdefault(ours, [])
        tables.append(_summed(pairs.append_column("rows", pa.repeat(pa.scalar(1, pa.int64()), pairs.num_rows))))
        if len(tables) > 1 and sum(table.num_rows for table in tables[1:]) > MAX_LOOSE_ROWS:
            tables[:] = [_summed(pa.concat_tables(tables))]


def _find_columns(rows: pa.Table, columns: Mapping[str, str], *, source: str) -> dict[str, str]:
    """Our name -> the table's, by default of all columns that can be attributes; raises DataRejected."""
    present = rows.column_names
    if present == [LINE]:
        raise DataRejected(f"{source} is read as sequences, which have no item columns; set --format")
    found = dict(columns)
    if not _are_attributes_named(columns):
        used = set(columns.values()) | {"item_id"}
        found |= {
            field.name: field.name for field in rows.schema if field.name not in used and _can_be_attribute(field.type)
        }
    found.setdefault("item_id", "item_id")
    wrong = next((theirs for theirs in found.values() if present.count(theirs) != 1), None)
    if wrong is not None:
        what, advice = f"no column {wrong!r}", "Name them"
        if wrong in present:
            what, advice = f"{present.count(wrong)} columns {wrong!r}", "Rename one, or name those to read"
        raise DataRejected(
            f"{source} has {what}; its columns are: {', '.join(present)}. "
            f"{advice}, e.g. --item-columns item_id=StockCode,title=Description"
        )
    kinds = {ours: rows.schema.field(theirs).type for ours, theirs in found.items()}
    single = {ours: found[ours] for ours, kind in kinds.items() if ours == "item_id" or not _can_be_attribute(kind)}
    refuse_nested(rows, single, flag="--item-columns", source=source)
    return found


def _left_out(schema: pa.Schema, columns: Mapping[str, str]) -> set[str]:
    """Columns whose values cannot be attributes; the fields of objects are columns of their own (`with_fields`)."""
    if _are_attributes_named(columns):
        return set()
    nested = {field.name: field.type for field in schema if not _can_be_attribute(field.type)}
    return {name for name, kind in nested.items() if not pa.types.is_struct(kind)}


def _are_attributes_named(columns: Mapping[str, str]) -> bool:
    return any(ours != "item_id" for ours in columns)


def _can_be_attribute(kind: Any) -> bool:
    """Whether values of this type are single or plain lists."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return not pa.types.is_nested(kind.value_type if is_list else kind)


def _summed(pairs: pa.Table) -> pa.Table:
    grouped = pairs.group_by(["item_id", "value"]).aggregate([("rows", "sum")])
    return grouped.rename_columns({"rows_sum": "rows"}).select(["item_id", "value", "rows"]).cast(_COUNTS)


def _most_frequent(pairs: pa.Table, vocabulary: pa.Array) -> pa.Array:
    ordered = _summed(pairs).sort_by([("item_id", "ascending"), ("rows", "descending"), ("value", "ascending")])
    place = pc.index_in(vocabulary, value_set=ordered["item_id"].combine_chunks())  # index_in gives the first match
    values = ordered["value"].combine_chunks().take(place)
    if pc.any(pc.match_substring_regex(values, _VECTOR)).as_py():
        return _vectors(values)
    if not pc.all(pc.match_substring_regex(values, _NUMBER), min_count=1).as_py():
        return values
    if pc.all(pc.match_substring_regex(values, _WHOLE)).as_py():
        return values.cast(pa.int64())
    return values.cast(pa.float64())


def _vectors(values: pa.Array) -> pa.Array:
    """Parse vectors, such as embeddings of images or texts; all have the same length."""
    numbers = pc.split_pattern(values, VALUE_SEPARATOR)
    lengths = pc.unique(pc.list_value_length(numbers).drop_null()).to_pylist()
    try:
        vectors = numbers.cast(pa.list_(pa.float32()))
    except pa.ArrowInvalid as error:
        raise DataRejected(f"a vector of the item table has a value that is not a number: {error}") from None
    if len(lengths) > 1:
        raise DataRejected(
            f"vectors of the item table have {lengths[0]} and {lengths[1]} numbers; use the same model for all of them"
        )
    return vectors


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """One array of a column; lists become text, joined by VALUE_SEPARATOR, without their missing values."""
    array = column.combine_chunks()
    kind: Any = array.type
    if pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
    if pa.types.is_list(array.type) or pa.types.is_large_list(kind):
        values = pc.list_flatten(array).cast(pa.string())
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        num_known = np.concatenate([[0], np.cumsum(values.is_valid().to_numpy(zero_copy_only=False))])
        ends = num_known[np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)]
        texts = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values.drop_null())
        return pc.binary_join(texts, VALUE_SEPARATOR)
    return array.cast(kind.value_type) if isinstance(kind, pa.DictionaryType) else array
