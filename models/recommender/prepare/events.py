"""Validation of events: which columns there are, how their values are parsed, and why a row is rejected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.ids import MAX_ID_CHARACTERS, NUMBER, as_text
from models.raw.rejections import Rejections, mask_of
from models.raw.tables import LINE
from models.raw.times import read_times
from models.recommender.prepare.event_types import amounts_of, normalised_types

EXCLUDED = "excluded_item"
"""The reason of rows of items in --exclude-items, which are not bad."""
REQUIRED = ("user_id", "item_id", "timestamp")
COLUMNS = (*REQUIRED, "event_type", "quantity", "price", "currency", "session_id", "event_id")
ANONYMOUS = "session:"
"""Begins the id of the anonymous user of a session; user ids of the log that begin with it are rejected."""

SPILL_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("time_us", pa.int64()),
        ("session_id", pa.string()),
        ("event_id", pa.string()),
        ("content", pa.uint64()),
        ("event_type", pa.string()),
        ("amount", pa.float32()),
    ]
)
"""A good event; `content` is a hash of the columns that only serve to detect duplicates.

An event without a user has a session."""

_JSON = r'^(\{\s*".*\}|\[\s*["{].*\])$'
"""An object or a list of JSON as text, as JSON lines of mixed types have; {3F2504E0-4F89} is an id."""
_MIX = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


def find_columns(present: Sequence[str], mapping: Mapping[str, str], *, source: str) -> dict[str, str]:
    """Our column name -> the file's; raises DataRejected, which lists the columns of the file."""
    found = {ours: mapping.get(ours, ours) for ours in COLUMNS if ours in mapping or ours in present}
    wrong = [theirs for theirs in found.values() if present.count(theirs) != 1]
    missing = [ours for ours in REQUIRED if ours not in found and not (ours == "user_id" and "session_id" in found)]
    if not wrong and not missing:
        return found
    listed = ", ".join(present) or "none"
    what = f"no column {wrong[0]!r}" if wrong else f"no column {missing[0]!r}"
    if wrong and present.count(wrong[0]) > 1:
        what = f"two columns {wrong[0]!r}"
    raise DataRejected(
        f"{source} has {what}; its columns are: {listed}. Name them, e.g. "
        "--columns user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate"
    )


def with_null_columns(rows: pa.Table, mapping: Mapping[str, str]) -> pa.Table:
    """Rows of JSON lines with the columns that none of them has added as nulls: JSON may omit missing values."""
    for name in (*mapping.values(), *(name for name in REQUIRED if name not in mapping)):
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.string()))
    return rows


def validate(
    rows: pa.Table, columns: Mapping[str, str], *, excluded: Iterable[str], now_s: float, timestamp_format: str = ""
) -> tuple[pa.Table, Rejections]:
    """The good rows as a table of SPILL_SCHEMA, and the rejected ones; `timestamp_format` is that of `read_times`."""
    rejections = Rejections(rows.num_rows)
    get = {ours: rows[theirs].combine_chunks() for ours, theirs in columns.items()}
    user, session = _user_and_session(get, rejections)
    item = _identifier(get["item_id"], "item_id", rejections, required=True)
    rejections.add(_isin(item, excluded), EXCLUDED, values=item)
    time_us = read_times(get["timestamp"], rejections, now_s=now_s, format=timestamp_format)
    optional = [name for name in ("event_type", "event_id") if name in get]
    texts = {name: _identifier(get[name], name, rejections, required=False) for name in optional}
    if "event_type" in texts:
        texts["event_type"] = normalised_types(texts["event_type"])
    numbers: dict[str, npt.NDArray[np.float64]] = {}
    numbers |= {name: _number(get[name], name, rejections) for name in ("quantity", "price") if name in get}
    hashes: dict[str, Hashes] = {name: _hash_text(text) for name, text in texts.items()}
    hashes |= {name: _hash_numbers(values) for name, values in numbers.items()}
    if "currency" in get:
        hashes["currency"] = _currency(get["currency"], rejections)
    nothing = pa.nulls(rows.num_rows, pa.string())
    good = pa.table(
        [
            _plain(user),
            _plain(item),
            time_us,
            _plain(session),
            _plain(texts.get("event_id", nothing)),
            pa.array(_mix(hashes, rows.num_rows)),
            _plain(texts.get("event_type", nothing)),
            amounts_of(numbers, rows.num_rows),
        ],
        schema=SPILL_SCHEMA,
    )
    return (good if not rejections.names else good.filter(pa.array(rejections.codes == 0))), rejections


def validate_sequences(
    rows: pa.Table, *, excluded: Iterable[str], first_position: int
) -> tuple[pa.Table, Rejections, pa.Table]:
    """Events of lines `user item item ...`: the good ones, the rejected ones, and all as a table.

    A line `user item` is one event, and a user may have several lines. There are no times: `time_us` is the event's
    position in the file, counted from `first_position`.
    """
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(rows[LINE].combine_chunks()))
    num_words = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    flat = words.flatten()
    starts = np.concatenate([[0], np.cumsum(num_words)[:-1]]).astype(np.int64)
    is_user = np.zeros(len(flat), bool)
    is_user[starts] = True
    is_user[starts[num_words == 1]] = False  # a line with only a user becomes a row without an item
    line_of = np.repeat(np.arange(len(words)), num_words)[~is_user]
    item = flat.filter(pa.array(~is_user))
    item = pc.if_else(pa.array(num_words[line_of] == 1), pa.scalar(None, pa.string()), item)
    table = pa.table({"user_id": flat.take(pa.array(starts[line_of])), "item_id": item})
    rejections = Rejections(table.num_rows)
    user, items = (
        _identifier(table[name].combine_chunks(), name, rejections, required=True) for name in table.column_names
    )
    rejections.add(_isin(items, excluded), EXCLUDED, values=items)
    position = np.arange(first_position, first_position + table.num_rows, dtype=np.int64)
    nothing = pa.nulls(table.num_rows, pa.string())
    content = pa.array(position.astype(np.uint64))
    amount = amounts_of({}, table.num_rows)
    good = pa.table(
        [_plain(user), _plain(items), position, nothing, nothing, content, nothing, amount], schema=SPILL_SCHEMA
    )
    return good.filter(pa.array(rejections.codes == 0)), rejections, table


def hash_ids(ids: pa.Array) -> Hashes:
    """A hash of each id, the same on every machine and in every run."""
    return pd.util.hash_array(ids.to_numpy(zero_copy_only=False).astype(object), categorize=False)


def remedy_of(reason: str) -> str:
    """The remedy of what is wrong with an event and with no other kind of row; empty for others."""
    if reason == "missing_user_id":
        return "a session may stand in for the user: --columns session_id=COLUMN"
    if reason.startswith("nested_"):
        return f"name the field, e.g. --columns {reason.removeprefix('nested_')}=user.id"
    return ""


def _identifier(column: pa.Array, name: str, rejections: Rejections, *, required: bool) -> pa.DictionaryArray:
    """Text of each row as a dictionary array, cleaned once per distinct value."""
    encoded = column if isinstance(column, pa.DictionaryArray) else pc.dictionary_encode(column)
    text, unreadable = as_text(encoded.dictionary)
    codes = encoded.indices

    def spread(flags: pa.Array) -> pa.Array:
        return pc.fill_null(pc.take(flags, codes), False)

    rejections.add(spread(unreadable), f"unreadable_{name}", values=column)
    if required:
        rejections.add(pc.is_null(pc.take(text, codes)), f"missing_{name}", values=column)
    if pc.any(pc.or_(pc.starts_with(text, "{"), pc.starts_with(text, "["))).as_py():
        rejections.add(spread(pc.match_substring_regex(text, _JSON)), f"nested_{name}", values=column)
    too_long = pc.greater(pc.utf8_length(text), MAX_ID_CHARACTERS)
    rejections.add(spread(too_long), f"too_long_{name}", values=column)
    control = pc.match_substring_regex(text, r"[\x00-\x1f\x7f]")
    rejections.add(spread(control), f"control_character_in_{name}", values=column)
    return pa.DictionaryArray.from_arrays(codes, text)


def _user_and_session(get: Mapping[str, pa.Array], rejections: Rejections) -> tuple[pa.Array, pa.Array]:
    """User and session of each row; a row needs one of them."""
    if "session_id" not in get:
        user = _identifier(get["user_id"], "user_id", rejections, required=True)
        return user, pa.nulls(rejections.num_rows, pa.string())
    nothing = pa.nulls(rejections.num_rows, pa.string())
    user = _identifier(get.get("user_id", nothing), "user_id", rejections, required=False)
    session = _identifier(get["session_id"], "session_id", rejections, required=False)
    is_anonymous = pc.is_null(_plain(user))
    column = get.get("user_id", nothing)
    rejections.add(pc.and_(is_anonymous, pc.is_null(_plain(session))), "missing_user_id", values=column)
    too_long = pc.greater(pc.utf8_length(session.dictionary), MAX_ID_CHARACTERS - len(ANONYMOUS))
    rejections.add(pc.and_(is_anonymous, _spread(too_long, session)), "too_long_session_id", values=get["session_id"])
    reserved = _spread(pc.match_substring_regex(user.dictionary, f"^{ANONYMOUS}"), user)
    rejections.add(reserved, "reserved_user_id", values=column)
    return user, session


def _spread(flags: pa.Array, encoded: pa.DictionaryArray) -> pa.Array:
    """Flags of the distinct values as flags of the rows."""
    return pc.fill_null(pc.take(flags, encoded.indices), False)


def _number(column: pa.Array, name: str, rejections: Rejections) -> npt.NDArray[np.float64]:
    """Validate the numbers of `price` or `quantity`; NaN for null, which is allowed."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        numbers, unreadable = column.cast(pa.float64(), safe=False), pa.repeat(False, len(column))
    else:
        text, _ = as_text(column)
        unreadable = pc.fill_null(pc.invert(pc.match_substring_regex(text, NUMBER)), False)
        numbers = pc.if_else(unreadable, pa.scalar(None, pa.string()), text).cast(pa.float64())
    bad = pc.or_(unreadable, pc.fill_null(pc.invert(pc.is_finite(numbers)), False))
    rejections.add(bad, f"bad_{name}", values=column)
    if name == "price":  # a gift is an event too
        rejections.add(pc.less(numbers, 0.0), f"negative_{name}", values=column)
    else:
        rejections.add(pc.less_equal(numbers, 0.0), f"{name}_not_positive", values=column)
    values: npt.NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False)
    return values


def _hash_numbers(values: npt.NDArray[np.float64]) -> Hashes:
    """A hash of each number, 0 where there is none."""
    known = np.isfinite(values)
    hashes: Hashes = pd.util.hash_array(np.where(known, values + 0.0, 0.0)) * known
    return hashes


def _currency(column: pa.Array, rejections: Rejections) -> Hashes:
    text, unreadable = as_text(column)
    text = pc.utf8_upper(text)
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(text, "^[A-Z]{3}$")), False)
    rejections.add(pc.or_(wrong, unreadable), "bad_currency", values=column)
    return _hash_text(pc.dictionary_encode(text))


def _hash_text(encoded: pa.DictionaryArray) -> Hashes:
    """A hash of each text of a dictionary array, 0 for null."""
    text = encoded.dictionary
    hashes = np.append(hash_ids(pc.fill_null(text, "")) * mask_of(pc.is_valid(text)), np.uint64(0))
    spread: Hashes = hashes[pc.fill_null(encoded.indices.cast(pa.int64()), len(text)).to_numpy(zero_copy_only=False)]
    return spread


def _mix(hashes: Mapping[str, Hashes], num_rows: int) -> Hashes:
    """One hash of the columns that distinguish events; a missing column counts as one of nulls."""
    mixed = np.zeros(num_rows, np.uint64)
    for name in ("event_type", "quantity", "price", "currency", "event_id"):
        mixed = (mixed * _MIX) ^ hashes.get(name, np.uint64(0)) ^ (mixed >> np.uint64(29))
    return mixed


def _isin(encoded: pa.DictionaryArray, wanted: Iterable[str]) -> pa.Array:
    listed = pa.array(sorted(wanted), pa.string())
    return pc.fill_null(pc.take(pc.is_in(encoded.dictionary, value_set=listed), encoded.indices), False)


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary.take(array.indices) if isinstance(array, pa.DictionaryArray) else array
