"""Reads the rows of sales tables and logs of order lines: each is checked, bad ones go to quarantine with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.chunks import Chunk
from models.raw.ids import MAX_ID_CHARACTERS, NUMBER, as_text, id_text, refuse_nested
from models.raw.mapping import parse_mapping
from models.raw.panel_settings import COLUMNS, REQUIRED, SYNONYMS, PanelSettings
from models.raw.quarantine import Quarantine
from models.raw.rejections import Rejections
from models.raw.tables import Source, read
from models.raw.time_zones import local_us
from models.raw.times import read_times
from models.raw.wide_tables import as_long

EXCLUDED = "excluded_product"
NUMBERS = ("units", "price", "revenue", "stock", "stock_out", "promotion")
PLACE = ("product", "store", "time")
MAX_NUMBER = 1e9
"""Of units, prices and the like; what requests may have, too."""
_YEAR_MONTH = r"^(\d{4})[-/.](\d{2})$"
_WEEK = re.compile(r"^(\d{4})-?W(\d{2})$")
_TRUE, _FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


@dataclass
class Rows:
    """The good rows of some files, and what was found about the others."""

    table: pa.Table | None = None
    """product, store (text), time (microseconds, or numbers of periods), NUMBERS and the family's more_numbers (NaN if
    missing), currency, content
    (a hash of all columns of the file)."""
    unreadable: pa.Table | None = None
    """product, store and time of rows of sales that cannot be used for a number in them: nobody knows the units."""
    num_rows: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    """Our names of the columns that were found."""
    excluded: set[str] = field(default_factory=set)
    """The products of --exclude-products that have rows."""
    notes: list[str] = field(default_factory=list)


def read_rows(settings: PanelSettings, source: Source, quarantine: Path, now_s: float) -> Rows:
    """The rows of one file; raises DataRejected where a column is missing. Bad ones go to the file `quarantine`."""
    found, tables, unreadable = Rows(), list[pa.Table](), list[pa.Table]()
    excluded = [str(id_text(product)) for product in settings.exclude_products]
    with Quarantine(quarantine) as bad:
        for chunk in read(source):
            chunk = as_long(chunk)
            found.num_rows += chunk.rows.num_rows + sum(map(len, chunk.broken.values()))
            found.notes += chunk.notes
            for reason, lines in chunk.broken.items():
                bad.add_lines(lines, reason=reason, source=source.path)
                found.examples.setdefault(reason, lines[0])
            if not chunk.rows.num_rows:
                continue
            columns = _find_columns(chunk, settings, source)
            found.columns |= set(columns)
            table, rejections = _checked(chunk.rows, columns, settings, excluded=excluded, now_s=now_s)
            if excluded:
                seen = as_text(chunk.rows[columns["product_id"]].combine_chunks())[0]
                found.excluded |= set(excluded) & set(pc.unique(seen).to_pylist())
            if rejections.names:
                # Only what is read here: other columns may say who bought.
                rejected = chunk.rows.select(list(columns.values())).filter(pa.array(rejections.codes > 0))
                bad.add_rows(rejected, reasons=rejections.reasons(), source=source.path)
                found.examples = {**rejections.examples, **found.examples}
                found.samples = {**rejections.samples, **found.samples}
            numbers = (*NUMBERS, *settings.more_numbers)
            reasons = {"missing_units", *(f"bad_{name}" for name in numbers), *map(_negative, settings.more_numbers)}
            codes = [number for number, name in enumerate(rejections.names, 1) if name in reasons]
            unreadable.append(table.select(PLACE).filter(pa.array(np.isin(rejections.codes, codes))))
            tables.append(table.filter(pa.array(rejections.codes == 0)))
    found.bad = dict(bad.counts)
    found.table = pa.concat_tables(tables) if tables else None
    found.unreadable = pa.concat_tables(unreadable) if unreadable else None
    return found


def remedy_of(reason: str, example: str | None) -> str:
    """The remedy of what is wrong with sales and with no other kind of row; empty for others."""
    if reason == "implausible_timestamp" and re.fullmatch(r"\d{1,5}(\.0*)?", example or ""):
        return "if these are numbers of periods, use --period number"
    return {
        "negative_price": "a price is positive; a return has negative units",
        "zero_price": "a gift or a correction is no sale; leave the price empty to count it",
    }.get(reason, "")


def find_names(present: Sequence[str], mapping: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Our name -> the file's for the wanted columns that are there, by the mapping, our name or a synonym of it."""
    found = dict(mapping)
    lower = {name.lower(): name for name in reversed(present)}
    for ours in wanted:
        for name in (ours, *SYNONYMS.get(ours, ())):
            if ours not in found and name in lower and lower[name] not in found.values():
                found[ours] = lower[name]
    return found


def _find_columns(chunk: Chunk, settings: PanelSettings, source: Source) -> dict[str, str]:
    present = chunk.rows.column_names
    found = find_names(present, parse_mapping(settings.columns), (*COLUMNS, *settings.more_numbers))
    wrong = [theirs for theirs in found.values() if present.count(theirs) != 1]
    missing = [ours for ours in REQUIRED if ours not in found]
    if wrong or missing:
        what = f"no column {wrong[0]!r}" if wrong else f"no column for {missing[0]!r}"
        if wrong and present.count(wrong[0]) > 1:
            what = f"two columns {wrong[0]!r}"
        raise DataRejected(
            f"{source.path} has {what}; its columns are: {', '.join(present)}. Name them, e.g. "
            "--columns product_id=StockCode,timestamp=InvoiceDate,units=Quantity"
        )
    refuse_nested(chunk.rows, found, flag="--columns", source=source.path)
    return found


def _checked(
    rows: pa.Table, columns: Mapping[str, str], settings: PanelSettings, *, excluded: Sequence[str], now_s: float
) -> tuple[pa.Table, Rejections]:
    rejections = Rejections(rows.num_rows)
    get = {ours: rows[theirs].combine_chunks() for ours, theirs in columns.items()}
    nothing = pa.nulls(rows.num_rows, pa.string())
    product = identifier(get["product_id"], "product_id", rejections)
    rejections.add(pc.is_in(product, value_set=pa.array(excluded, pa.string())), EXCLUDED, values=product)
    store = identifier(get["store_id"], "store_id", rejections) if "store_id" in get else nothing
    time = read_periods(get["timestamp"], settings, rejections, now_s=now_s)
    values = {
        name: read_numbers(get.get(name, nothing), name, rejections) for name in (*NUMBERS, *settings.more_numbers)
    }
    rejections.add(np.isnan(values["units"]), "missing_units")
    rejections.add(values["price"] < 0, "negative_price", values=get.get("price"))
    rejections.add(values["price"] == 0, "zero_price", values=product)
    for name in settings.more_numbers:
        rejections.add(values[name] < 0, _negative(name), values=get.get(name))
    currency = as_text(get["currency"])[0] if "currency" in get else nothing
    plain = [each.name for each in rows.schema if not pa.types.is_nested(each.type)]
    content = pd.util.hash_pandas_object(rows.select(plain).to_pandas(), index=False).to_numpy()
    table = pa.table(
        {
            "product": product,
            "store": store,
            "time": time,
            **{name: pa.array(value) for name, value in values.items()},
            "currency": pc.utf8_upper(currency),
            "content": pa.array(content),
        }
    )
    return table, rejections


def _negative(name: str) -> str:
    return f"negative_{name}"


def identifier(column: pa.Array, name: str, rejections: Rejections) -> pa.Array:
    """Ids as text; missing, unreadable and too long ones are rejected."""
    kind = column.type
    text, unreadable = as_text(column.cast(kind.value_type) if isinstance(kind, pa.DictionaryType) else column)
    rejections.add(unreadable, f"unreadable_{name}", values=column)
    rejections.add(pc.is_null(text), f"missing_{name}")
    rejections.add(pc.greater(pc.utf8_length(text), MAX_ID_CHARACTERS), f"too_long_{name}", values=text)
    return text.cast(pa.string())


def read_periods(column: pa.Array, settings: PanelSettings, rejections: Rejections, *, now_s: float) -> pa.Array:
    """Microseconds of each row on the clock of --time-zone, or the number of its period.

    Also reads months, 2024-05, and ISO weeks, 2024-W07.
    """
    if settings.period == "number":
        numbers = read_numbers(column, "timestamp", rejections)
        is_bad = ~np.isfinite(numbers) | (numbers != np.rint(numbers)) | (np.abs(numbers) > 1e6)
        rejections.add(is_bad, "bad_timestamp", values=column)
        return pa.array(np.where(is_bad, 0, np.nan_to_num(numbers)).astype(np.int64))
    kind = column.type
    if not (pa.types.is_temporal(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        text = as_text(column)[0]
        text = pc.replace_substring_regex(text, _YEAR_MONTH, r"\1-\2-01")
        if pc.any(pc.match_substring_regex(text, _WEEK.pattern)).as_py():
            text = pa.array([None if value is None else _monday(value) for value in text.to_pylist()], pa.string())
        # What is not a time goes on as it was, so that messages show it.
        column = text
    found = read_times(column, rejections, now_s=now_s, format=settings.timestamp_format)
    return local_us(found, column, zone=settings.time_zone, format=settings.timestamp_format)


def read_numbers(column: pa.Array, name: str, rejections: Rejections) -> Floats:
    """Numbers of each row, NaN for null; true and false are 1 and 0."""
    kind = column.type
    if kind == pa.bool_():
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        text, _ = as_text(column)
        lower = pc.utf8_lower(text)
        text = pc.if_else(pc.fill_null(pc.is_in(lower, value_set=pa.array(_TRUE)), False), pa.scalar("1"), text)
        text = pc.if_else(pc.fill_null(pc.is_in(lower, value_set=pa.array(_FALSE)), False), pa.scalar("0"), text)
        unreadable = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        rejections.add(unreadable, f"bad_{name}", values=column)
        column = pc.if_else(unreadable, pa.scalar(None, pa.string()), text)
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        is_bad = np.abs(values) > MAX_NUMBER
    rejections.add(is_bad, f"bad_{name}", values=column)
    return values


def _monday(text: str) -> str:
    match = _WEEK.match(text)
    if match is None or not 1 <= int(match[2]) <= 53:
        return text
    try:
        return pd.Timestamp.fromisocalendar(int(match[1]), int(match[2]), 1).strftime("%Y-%m-%d")
    except ValueError:
        return text
