"""Values of any column type as one text form, so that an id is the same in logs, item tables and requests."""

from __future__ import annotations

import re
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, WithJsonSchema

from models.raw.tables import decode

NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
"""A number as text; a regular expression."""

_MISSING_WORDS = ("", "null", "none", "nan", "n/a", "undefined", "\\n")
_INTEGRAL = r"^-?\d+\.0+$"
_MAX_EXACT = 2**53


def id_text(value: Any) -> Any:
    """An id of a request in the form of `as_text`: 17850 and 17850.0 are "17850"; other types are left to pydantic."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _MAX_EXACT:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    return re.sub(r"\.0+$", "", text) if re.match(_INTEGRAL, text) else text


Id = Annotated[
    str,
    Field(min_length=1, max_length=256),
    BeforeValidator(id_text),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}]}),
]
"""An id in a request, as text; numbers are accepted."""


def as_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """A column of any scalar type as trimmed text, null for missing values; and a mask of values that are not exact.

    Whole numbers lose their decimals: 17850.0 is 17850, in a float column as in a CSV file.
    """
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
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(_MISSING_WORDS))
    text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    integral = pc.fill_null(pc.match_substring_regex(text, _INTEGRAL), False)
    if pc.any(integral).as_py():
        text = pc.if_else(integral, pc.replace_substring_regex(text, r"\.0+$", ""), text)
    return text, unreadable


def _float_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    known = np.isfinite(values)
    inexact = known & (np.abs(values) >= _MAX_EXACT)
    integral = known & ~inexact & (values == np.rint(values))
    whole = pa.array(np.where(integral, values, 0).astype(np.int64)).cast(pa.string())
    broken = pc.if_else(pa.array(known), column.cast(pa.string()), pa.scalar(None, pa.string()))
    return pc.if_else(pa.array(integral), whole, broken), pa.array(inexact)
