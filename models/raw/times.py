"""Times of any column type as microseconds since 1970."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.raw.ids import NUMBER, as_text
from models.raw.rejections import Rejections, mask_of

EARLIEST_S = 631_152_000  # 1990-01-01: no shop's log is older, and numbers in a unit that is too large fall before it
LATEST_SLACK_S = 86_400
_TIME = r"^\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?\s?([Zz]|[+-]\d{2}:?\d{2})?)?$"
_US_PER_S = 1_000_000


def read_times(column: pa.Array, rejections: Rejections, *, now_s: float) -> pa.Array:
    """Microseconds since 1970 of each row; null where a row is bad."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        missing, time_us = pc.is_null(column), _clock_us(column)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        missing, time_us = pc.is_null(column, nan_is_null=True), _epoch_us(column.cast(pa.float64(), safe=False))
    else:
        text, _ = as_text(column)
        missing = pc.is_null(text)
        is_number = pc.fill_null(pc.match_substring_regex(text, NUMBER), False)
        time_us = pc.coalesce(
            _epoch_us(pc.if_else(is_number, text, pa.scalar(None, pa.string())).cast(pa.float64())),
            _rfc3339_us(pc.if_else(is_number, pa.scalar(None, pa.string()), text)),
        )
    rejections.add(missing, "missing_timestamp")
    rejections.add(pc.is_null(time_us), "bad_timestamp", values=column)
    earliest, latest = EARLIEST_S * _US_PER_S, int((now_s + LATEST_SLACK_S) * _US_PER_S)
    outside = pc.or_(pc.less(time_us, earliest), pc.greater(time_us, latest))
    rejections.add(outside, "implausible_timestamp", values=column)
    return time_us


def _clock_us(column: pa.Array) -> pa.Array:
    """Microseconds of Arrow times and dates; if any overflow 64 bits, all become the smallest integer (implausible)."""
    try:
        return column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    except pa.ArrowInvalid:
        seconds = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return pa.array(np.full(len(seconds), np.iinfo(np.int64).min), mask=mask_of(pc.is_null(column)))


def _epoch_us(numbers: pa.Array) -> pa.Array:
    """Microseconds of epoch seconds or milliseconds: plausible ranges do not overlap, so a value is unambiguous."""
    values = numbers.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        is_ms = np.abs(values) >= EARLIEST_S * 1000
        scaled = np.clip(np.where(is_ms, values * 1e3, values * 1e6), -9e18, 9e18)
    known = np.isfinite(scaled)
    return pa.array(np.rint(np.where(known, scaled, 0)).astype(np.int64), mask=~known)


def _rfc3339_us(text: pa.Array) -> pa.Array:
    shaped = pc.fill_null(pc.match_substring_regex(text, _TIME), False)
    text = pc.if_else(shaped, text, pa.scalar(None, pa.string()))
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:  # fast when all rows have the same form, as is usual
            return text.cast(kind).cast(pa.int64())
        except pa.ArrowInvalid:
            continue
    text = pc.utf8_upper(pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1"))
    parsed = pd.to_datetime(text.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    return pa.array(parsed.dt.tz_localize(None).dt.as_unit("us"), pa.timestamp("us")).cast(pa.int64())


def unit_remedy(value: str) -> str:
    try:
        number = abs(float(value))
    except ValueError:
        return "times must be between 1990 and tomorrow: is it in another unit, or a placeholder for a missing time?"
    if 19_000_101 <= number <= 21_001_231:
        return "a date without dashes? write 2024-05-01; if it is minutes, multiply by 60"
    for unit, seconds, remedy in (
        ("microseconds", number / 1e6, "divide by 1,000,000"),
        ("nanoseconds", number / 1e9, "divide by 1,000,000,000"),
        ("minutes", number * 60, "multiply by 60"),
        ("hours", number * 3600, "multiply by 3,600"),
        ("days", number * 86400, "multiply by 86,400"),
    ):
        if EARLIEST_S <= seconds <= 3 * EARLIEST_S:
            return f"it looks like {unit}: {remedy} to get seconds"
    return "times must be between 1990 and tomorrow, in epoch seconds or milliseconds"
