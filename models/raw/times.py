"""Times of any column type as microseconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.raw.ids import NUMBER, as_text, unchanged_text
from models.raw.rejections import Rejections, mask_of

EARLIEST_S = 631_152_000  # 1990-01-01: no shop's log is older, and numbers in a unit that is too large fall before it
LATEST_SLACK_S = 86_400
DAY_FIRST, MONTH_FIRST = "day-first", "month-first"
"""Values of --timestamp-format for dates such as 31/12/2024, 31.12.2024 or 31-12-2024 with any time of day or none."""
NUM_SAMPLES = 100
"""Times that cannot be parsed, of each chunk of a log, from which the message infers their format."""

ZONE = r"([Zz]|UTC|GMT|[+-]\d{2}(:?\d{2})?)"
"""At the end of a time as text: what makes it a moment instead of a time on some clock."""
_TIME = (
    r"^\d{4}(-\d{2}-|/\d{2}/|\.\d{2}\.)\d{2}"
    r"([Tt ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?\s?" + ZONE + r"?)?$"
)
_DAY_OR_MONTH_FIRST = r"^(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})[, T]*"
_AM, _PM = r"[Aa]\.?[Mm]\.?", r"[Pp]\.?[Mm]\.?"
_FAST_DIRECTIVES = set("YymdHMSIpbB")
_ZONE_WORDS = " UTCGMZz"
_US_PER_HOUR = 3_600_000_000
_US_PER_S = 1_000_000


def check_format(text: str) -> None:
    """Raise ValueError if a value of --timestamp-format is neither a word nor a format with a year, month and day."""
    if text in ("", DAY_FIRST, MONTH_FIRST):
        return
    has_date = any(year in text for year in ("%Y", "%y")) and "%d" in text
    if any(code in text for code in ("%D", "%x", "%c")) or not (
        has_date and any(month in text for month in ("%m", "%b", "%B"))
    ):
        raise ValueError(
            f"--timestamp-format {text!r} is not a format of dates: write {DAY_FIRST}, {MONTH_FIRST}, or the "
            "directives of Python's strptime for year, month and day, e.g. '%d/%m/%Y %H:%M'"
        )
    try:
        pd.to_datetime(pd.Series(["1"]), format=text, errors="coerce", utc=True)
    except ValueError as error:
        raise ValueError(f"--timestamp-format {text!r}: {error}") from None


def epoch_s(text: str) -> int:
    """Seconds since 1970 of a time that a flag gives; ValueError if it is not RFC 3339."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write RFC 3339 such as 2024-05-01T00:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def read_times(column: pa.Array, rejections: Rejections, *, now_s: float, format: str = "") -> pa.Array:
    """Microseconds since 1970 of each row; null where a row is bad. Times without a zone are UTC.

    `format` is DAY_FIRST, MONTH_FIRST, or a format of strptime that all texts and numbers have; without it a text is
    RFC 3339 or a close relative, and a number epoch seconds or milliseconds.
    """
    kind = column.type
    is_strptime = "%" in format
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        missing, time_us = pc.is_null(column), _clock_us(column)
    elif _is_number(kind) and not is_strptime:
        missing, time_us = pc.is_null(column, nan_is_null=True), _epoch_us(column.cast(pa.float64(), safe=False))
    else:
        text, _ = unchanged_text(column)
        missing = pc.is_null(text)
        time_us = _formatted_us(as_text(column)[0], format) if is_strptime else _text_us(text, format)
    rejections.add(missing, "missing_timestamp")
    rejections.add(pc.is_null(time_us), "bad_timestamp", values=column, num_samples=NUM_SAMPLES)
    earliest, latest = EARLIEST_S * _US_PER_S, int((now_s + LATEST_SLACK_S) * _US_PER_S)
    outside = pc.or_(pc.less(time_us, earliest), pc.greater(time_us, latest))
    rejections.add(outside, "implausible_timestamp", values=column)
    return time_us


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _text_us(text: pa.Array, format: str) -> pa.Array:
    """Microseconds of texts, which are times or epoch numbers."""
    nothing = pa.scalar(None, pa.string())
    is_number = pc.match_substring_regex(text, NUMBER)
    numbers = None
    if pc.any(is_number).as_py():
        is_number = pc.fill_null(is_number, False)
        numbers = _epoch_us(pc.if_else(is_number, text, nothing).cast(pa.float64()))
        if pc.all(is_number).as_py():
            return numbers
        text = pc.if_else(is_number, nothing, text)
    clocks = _ordered_us(text, format) if format else _rfc3339_us(text)
    return clocks if numbers is None else pc.coalesce(numbers, clocks)


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
    """Microseconds of year-first times; null for other texts. What is usual comes first: a failed cast is slow."""
    shaped = pc.match_substring_regex(text, _TIME)
    if not pc.all(shaped).as_py():
        text = pc.if_else(pc.fill_null(shaped, False), text, pa.scalar(None, pa.string()))
    text = pc.utf8_rtrim(text, characters=_ZONE_WORDS)  # UTC like times without a zone; no time ends with these
    known = text.drop_null()
    if not len(known):
        return pa.nulls(len(text), pa.int64())
    first = known[0].as_py()  # most others are like it
    if re.search(r"[,/]|^\d+[.]", first):
        text = _with_dashes_and_points(text)
    try:
        return _offset_us(text) if re.search("[+-]", first[10:]) else text.cast(pa.timestamp("us")).cast(pa.int64())
    except pa.ArrowInvalid:
        text = _with_dashes_and_points(text)
    try:
        return _offset_us(text)
    except pa.ArrowInvalid:  # such as 30 February, or nanoseconds
        return _rare_us(text)


def _offset_us(text: pa.Array) -> pa.Array:
    """Microseconds of times with an offset or without in the form of Arrow; raises ArrowInvalid for another one."""
    has_offset = pc.fill_null(pc.match_substring_regex(text, ":.*[+-]"), False)
    nothing = pa.scalar(None, pa.string())
    zoned = pc.replace_substring_regex(pc.if_else(has_offset, text, nothing), " ([+-])", r"\1")
    zoned_us = zoned.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return pc.coalesce(zoned_us, pc.if_else(has_offset, nothing, text).cast(pa.timestamp("us")).cast(pa.int64()))


def _with_dashes_and_points(text: pa.Array) -> pa.Array:
    """2024/05/01 and 2024.05.01 as 2024-05-01, and a decimal point in place of a comma."""
    text = pc.replace_substring(text, pattern=",", replacement=".")
    return pc.replace_substring_regex(text, r"^(\d{4})[/.](\d{2})[/.]", r"\1-\2-")


def _rare_us(text: pa.Array) -> pa.Array:
    text = pc.utf8_upper(pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1"))
    parsed = pd.to_datetime(text.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    return _naive_us(parsed)


def _naive_us(parsed: pd.Series[pd.Timestamp]) -> pa.Array:
    return pa.array(parsed.dt.tz_localize(None).dt.as_unit("us"), pa.timestamp("us")).cast(pa.int64())


def _ordered_us(text: pa.Array, format: str) -> pa.Array:
    """Microseconds of dates with the day or the month first, and a time of day with or without AM or PM."""
    date = r"\3-0\2-0\1 " if format == DAY_FIRST else r"\3-0\1-0\2 "
    is_dated = pc.fill_null(pc.match_substring_regex(text, _DAY_OR_MONTH_FIRST), False)
    ordered = pc.replace_substring_regex(text, _DAY_OR_MONTH_FIRST, date)
    ordered = pc.replace_substring_regex(ordered, r"-0(\d\d)", r"-\1", max_replacements=2)
    ordered = pc.utf8_trim_whitespace(pc.replace_substring_regex(ordered, r" (\d):", r" 0\1:"))
    text = pc.if_else(is_dated, ordered, text)
    is_am, is_pm = (pc.fill_null(pc.match_substring_regex(text, rf":\d\d ?{half}$"), False) for half in (_AM, _PM))
    time_us = _rfc3339_us(pc.replace_substring_regex(text, rf"(:\d\d) ?({_AM}|{_PM})$", r"\1"))
    values = pc.fill_null(time_us, 0).to_numpy(zero_copy_only=False)
    hour = values // _US_PER_HOUR % 24
    moved_h = np.where(mask_of(is_pm) & (hour < 12), 12, np.where(mask_of(is_am) & (hour == 12), -12, 0))
    return pa.array(values + moved_h * _US_PER_HOUR, mask=mask_of(pc.is_null(time_us)))


def _formatted_us(text: pa.Array, format: str) -> pa.Array:
    """Microseconds of texts in a format of strptime."""
    if not set(re.findall("%(.)", format)) <= _FAST_DIRECTIVES:
        return _pandas_us(text, format)
    times = pc.strptime(text, format=format, unit="us", error_is_null=True)
    # Arrow, 25 times as fast as pandas, reads 30 February as 1 March.
    is_rolled = pc.fill_null(pc.less_equal(pc.day(times), 3), False)
    checked = _pandas_us(text.filter(is_rolled), format)
    time_us = times.cast(pa.int64())
    values, is_bad = pc.fill_null(time_us, 0).to_numpy(zero_copy_only=False).copy(), mask_of(pc.is_null(time_us))
    is_bad[mask_of(is_rolled)] = mask_of(pc.is_null(checked))
    return pa.array(values, mask=is_bad)


def _pandas_us(text: pa.Array, format: str) -> pa.Array:
    return _naive_us(pd.to_datetime(text.to_pandas(), format=format, utc=True, errors="coerce"))
