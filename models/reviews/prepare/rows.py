"""Reads the rows of reviews: each is checked, bad ones go to quarantine with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.erasure.erased import FOREVER, NOBODY, Erased
from models.errors import DataRejected
from models.raw.chunks import Chunk
from models.raw.encodings import decode
from models.raw.ids import MAX_ID_CHARACTERS, NUMBER, as_text, refuse_nested
from models.raw.mapping import parse_mapping
from models.raw.quarantine import Quarantine
from models.raw.rejections import Rejections, mask_of
from models.raw.tables import Source, read
from models.raw.times import NUM_SAMPLES, read_times
from models.reviews.prepare.settings import COLUMNS, PrepareConfig
from models.reviews.text import is_mojibake, normalise

FIELDS = pa.schema(
    [
        ("text", pa.large_string()),
        ("product_id", pa.string()),
        ("user_id", pa.string()),
        ("time_us", pa.int64()),
        ("rating", pa.float64()),
        ("label", pa.string()),
        ("category", pa.string()),
        ("aspects", pa.string()),
    ]
)
"""Columns of a good row, all null where missing but the text."""
TRUNCATED, NO_LETTERS = "cut off at --max-chars", "without letters, such as emoji only"
_LONGEST_NAME = 200


@dataclass
class Rows:
    """The good rows of some files, and what was found about the others."""

    table: pa.Table = field(default_factory=FIELDS.empty_table)
    num_rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    """How many good texts are special, by what is special."""
    num_erased: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    """Our names of the columns that were found."""
    notes: list[str] = field(default_factory=list)


def read_rows(
    config: PrepareConfig, source: Source, quarantine: Path, *, now_s: float, erased: Erased = NOBODY
) -> Rows:
    """The rows of one file; raises DataRejected where a column is missing. Bad ones go to the file `quarantine`."""
    found, tables = Rows(), [FIELDS.empty_table()]
    with Quarantine(quarantine) as bad:
        for chunk in read(source):
            found.num_rows += chunk.rows.num_rows + sum(map(len, chunk.broken.values()))
            found.notes += chunk.notes
            for reason, lines in chunk.broken.items():
                lines = [line for line in lines if not erased.quotes(line)] if erased else lines
                bad.add_lines(lines, reason=reason, source=source.path)
                found.examples.setdefault(reason, next(iter(lines), ""))
            if not chunk.rows.num_rows:
                continue
            columns = find_columns(chunk, config, source)
            found.columns |= set(columns)
            rows = chunk.rows.select(list(dict.fromkeys(columns.values())))
            checked, rejections = _checked(rows, columns, config, found.counts, now_s=now_s)
            is_good, is_gone = rejections.codes == 0, is_erased(checked, erased)
            found.num_erased += int(is_gone.sum())
            is_bad = ~is_good & ~is_gone
            if is_bad.any():
                reasons = rejections.reasons().filter(pa.array(~is_gone[~is_good]))
                bad.add_rows(rows.filter(pa.array(is_bad)), reasons=reasons, source=source.path)
                found.examples = {**rejections.examples, **found.examples}
                found.samples = {**rejections.samples, **found.samples}
            tables.append(checked.filter(pa.array(is_good & ~is_gone)))
    found.bad = Counter(bad.counts)
    found.table = pa.concat_tables(tables)
    return found


def find_columns(chunk: Chunk, config: PrepareConfig, source: Source) -> dict[str, str]:
    """Our name -> the file's of each column that is there; raises DataRejected without text, label and rating."""
    present = chunk.rows.column_names
    found = parse_mapping(config.columns, names=tuple(COLUMNS))
    lower = {name.lower(): name for name in reversed(present)}
    for ours, synonyms in COLUMNS.items():
        for name in (ours, *synonyms):
            if ours not in found and name in lower and lower[name] not in found.values():
                found[ours] = lower[name]
    wrong = next((theirs for theirs in found.values() if present.count(theirs) != 1), None)
    missing = "text" if "text" not in found else "" if {"label", "rating"} & set(found) else "label' or 'rating"
    if wrong is not None or missing:
        what = f"no column for '{missing}'" if wrong is None else f"not one column {wrong!r}"
        raise DataRejected(
            f"{source.path} has {what}; its columns are: {', '.join(present)}. Name them, e.g. "
            "--columns text=review,label=sentiment,category=cat"
        )
    refuse_nested(chunk.rows, found, flag="--columns", source=source.path)
    return found


def is_erased(checked: pa.Table, erased: Erased) -> npt.NDArray[np.bool_]:
    """Whether a row is an erased user's; one without a time is, whenever it was written."""
    if not erased:
        return np.zeros(checked.num_rows, np.bool_)
    until = erased.until_each(checked["user_id"])
    time_s = pc.fill_null(checked["time_us"], np.iinfo(np.int64).min).to_numpy() / 1e6
    found: npt.NDArray[np.bool_] = (until > -FOREVER) & (time_s < until)
    return found


def _checked(
    rows: pa.Table, columns: Mapping[str, str], config: PrepareConfig, counts: Counter[str], *, now_s: float
) -> tuple[pa.Table, Rejections]:
    rejections = Rejections(rows.num_rows)
    get = {ours: _plain(rows[theirs].combine_chunks()) for ours, theirs in columns.items()}
    text = _texts(get["text"], rejections, config, counts)
    nothing = pa.nulls(rows.num_rows, pa.string())
    found: dict[str, pa.Array] = {"text": text}
    for name in ("product_id", "user_id"):
        found[name] = _name(get.get(name, nothing), name, rejections, MAX_ID_CHARACTERS)
    for name in ("category", "aspects", "label"):
        found[name] = _name(get.get(name, nothing), name, rejections, _LONGEST_NAME)
    found["time_us"] = pa.nulls(rows.num_rows, pa.int64())
    if "timestamp" in get:
        found["time_us"] = _times(get["timestamp"], rejections, config, now_s=now_s)
    found["rating"] = _ratings(get.get("rating", nothing), rejections, config)
    columns_of = {name: found[name].cast(kind) for name, kind in zip(FIELDS.names, FIELDS.types, strict=True)}
    return pa.table(columns_of), rejections


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if isinstance(column.type, pa.DictionaryType) else column


def _texts(column: pa.Array, rejections: Rejections, config: PrepareConfig, counts: Counter[str]) -> pa.Array:
    """The texts, cut off at --max-chars; those that cannot be read are rejected."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        given, unreadable = decode(column)
        rejections.add(unreadable, "not_utf8", values=column)
    else:
        given = column.cast(pa.large_string())
    values = given.to_pylist()
    rejections.add(np.array([value is None for value in values], np.bool_), "missing_text")
    rejections.add(np.array(["\x00" in (value or "") for value in values], np.bool_), "nul_character", values=column)
    cut = [(value or "")[: config.max_chars] for value in values]
    rejections.add(np.array([is_mojibake(value) for value in cut], np.bool_), "mojibake", values=column)
    plain = [normalise(value[:400]).text or normalise(value).text for value in cut]
    rejections.add(np.array([not value for value in plain], np.bool_), "empty_text")
    is_good = (rejections.codes == 0).tolist()
    counts[TRUNCATED] += sum(
        len(value or "") > config.max_chars for value, good in zip(values, is_good, strict=True) if good
    )
    counts[NO_LETTERS] += sum(
        good and not any(each.isalnum() for each in value) for value, good in zip(plain, is_good, strict=True)
    )
    return pa.array([value if good else "" for value, good in zip(cut, is_good, strict=True)], pa.large_string())


def _name(column: pa.Array, name: str, rejections: Rejections, longest: int) -> pa.Array:
    """Ids and names as text, null where missing; unreadable and too long ones are rejected."""
    text, unreadable = as_text(column)
    rejections.add(unreadable, f"unreadable_{name}", values=column)
    rejections.add(pc.greater(pc.utf8_length(text), longest), f"too_long_{name}", values=text)
    return text


def _times(column: pa.Array, rejections: Rejections, config: PrepareConfig, *, now_s: float) -> pa.Array:
    """Microseconds since 1970; null where missing, which is not bad."""
    own = Rejections(len(column))
    found = read_times(column, own, now_s=now_s, format=config.timestamp_format)
    for code, reason in enumerate(own.names, start=1):
        if reason != "missing_timestamp":
            rejections.add(own.codes == code, reason, values=column, num_samples=NUM_SAMPLES)
    return found


def _ratings(column: pa.Array, rejections: Rejections, config: PrepareConfig) -> pa.Array:
    """Ratings, null where missing; those that are no number from 1 to --rating-max are rejected."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        text, _ = as_text(column)
        unreadable = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        rejections.add(unreadable, "bad_rating", values=column)
        column = pc.if_else(unreadable, pa.scalar(None, text.type), text)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        rejections.add((values < 1) | (values > config.rating_max), "bad_rating", values=column)
    return pa.array(values, mask=np.isnan(values))


def of_mask(rows: pa.Table, mask: npt.NDArray[np.bool_] | pa.Array) -> pa.Table:
    """The rows of a mask."""
    return rows.filter(pa.array(mask_of(mask)))
