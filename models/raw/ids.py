"""Values of any type as one text form, so that an id is the same in logs, item tables, images and requests."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, WithJsonSchema

from models.errors import DataRejected
from models.raw.encodings import decode

NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
"""A number as text; a regular expression."""
MAX_ID_CHARACTERS = 256
MISSING_WORDS = frozenset(
    ("", "null", "none", "nan", "nat", "n/a", "na", "<na>", "#n/a", "undefined", "(not set)", "\\n")
)
"""Texts in lower case that stand for a missing value in raw tables: as SQL, Python, pandas, R, Excel, JavaScript,
Google Analytics and MySQL write them."""

_BLANKS = "".join(
    chr(code) for code in (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))
)
_BLANKS += "\u2028\u2029\u202f\u205f\u3000\u200b\u200e\u200f\u2060\ufeff"
"""What is stripped from both ends: Unicode blanks, separators, byte-order marks and other characters of no width."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INTEGRAL = r"^-?\d+\.0+$"
_MAX_EXACT = 2**53
_FIELDS_SHOWN = 8


def as_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """A column of any scalar type as text, null for missing values; and a mask of values that are not exact.

    Text is stripped of blanks at both ends and normalised to NFC, the composed form of Unicode. Whole numbers lose
    their decimals: 17850.0 is 17850, in a float column as in a CSV file. Leading zeros stay.
    """
    text, unreadable = unchanged_text(column)
    if pc.any(pc.match_substring(text, ".0")).as_py():  # ten times as fast as the expression
        integral = pc.fill_null(pc.match_substring_regex(text, _INTEGRAL), False)
        if pc.any(integral).as_py():
            text = pc.if_else(integral, pc.replace_substring_regex(text, r"\.0+$", ""), text)
    return text, unreadable


def unchanged_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The same, but whole numbers that are text keep their decimals."""
    kind = column.type
    unreadable = pa.repeat(False, len(column))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        text, unreadable = decode(column)
    elif pa.types.is_floating(kind):
        text, unreadable = _float_text(column)
    elif pa.types.is_nested(kind):
        text, unreadable = pa.nulls(len(column), pa.string()), pc.is_valid(column)
    else:
        text = column.cast(pa.string())
    text = pc.utf8_trim_whitespace(text)
    if not pc.all(pc.string_is_ascii(text)).as_py():
        # Arrow's own utf8_normalize decomposes where NFC composes (25.0.1).
        values = [None if value is None else _composed(value) for value in text.to_pylist()]
        text = pa.array(values, pa.string())
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(MISSING_WORDS)))
    return pc.if_else(missing, pa.scalar(None, pa.string()), text), unreadable


def id_text(value: object) -> object:
    """One id in the form of `as_text`; ValueError for a float that is not exact. Other types than ids are returned.

    A word for a missing value stays as it is: in a request it is an id that nobody has.
    """
    if isinstance(value, str):
        if value.isascii() and value.isalnum():  # nothing to do, as is usual
            return value
        text = _composed(value)
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    elif isinstance(value, float) and abs(value) >= _MAX_EXACT:
        raise ValueError(f"{value!r} is not exact as a number; write the id as text, {f'{value:.0f}'!r}")
    else:
        text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return re.sub(r"\.0+$", "", text) if re.match(_INTEGRAL, text) else text


Id = Annotated[
    str,
    Field(min_length=1, max_length=MAX_ID_CHARACTERS),
    BeforeValidator(id_text),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}, {"type": "integer"}]}
    ),
]
"""An id in a request: text, or a number as JSON libraries write one; 17850, "17850" and 17850.0 are one id."""


def has_control_characters(text: str) -> bool:
    """Whether a text has what no id that comes over HTTP may have: it ends lines and fields of logs."""
    return _CONTROL.search(text) is not None


def refuse_nested(rows: pa.Table, columns: Mapping[str, str], *, flag: str, source: str) -> None:
    """Raise DataRejected if a column that is needed (our name -> the file's) holds objects or lists."""
    for ours, theirs in columns.items():
        kind = rows.schema.field(theirs).type
        if pa.types.is_nested(kind):
            raise DataRejected(
                f"{source}: column {theirs!r}, which is {ours}, holds {nested_words(kind)}, not single values; "
                f"{_nested_remedy(kind, ours, theirs, flag=flag)}"
            )


def nested_words(kind: Any) -> str:
    """What a column of a nested type holds, in words."""
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        more = ", ..." if len(names) > _FIELDS_SHOWN else ""
        return f"objects with the fields {', '.join(names[:_FIELDS_SHOWN])}{more}"
    return "maps" if pa.types.is_map(kind) else "lists"


def _nested_remedy(kind: Any, ours: str, theirs: str, *, flag: str) -> str:
    if pa.types.is_struct(kind) and kind.num_fields:
        names = [kind.field(index).name for index in range(kind.num_fields)]
        likely = next((name for name in ("id", ours, "_id", "$oid", "$date") if name in names), names[0])
        return f"name the field: {flag} {ours}={theirs}.{likely}"
    if pa.types.is_map(kind):
        return f"write the entry that is {ours} to a column of its own"
    return "write one row per value (explode or UNNEST), or the one value to a column of its own"


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip(_BLANKS))


def _float_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    known = np.isfinite(values)
    inexact = known & (np.abs(values) >= _MAX_EXACT)
    integral = known & ~inexact & (values == np.rint(values))
    whole = pa.array(np.where(integral, values, 0).astype(np.int64)).cast(pa.string())
    broken = pc.if_else(pa.array(known), column.cast(pa.string()), pa.scalar(None, pa.string()))
    return pc.if_else(pa.array(integral), whole, broken), pa.array(inexact)
