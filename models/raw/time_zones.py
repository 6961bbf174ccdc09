"""Time zones of sales: the local clock of times, so that an order belongs to the day on which it was made."""

from __future__ import annotations

import zoneinfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from models.raw.ids import NUMBER, as_text
from models.raw.rejections import mask_of
from models.raw.times import ZONE
from models.suggestions import suggestion

UTC = "UTC"
_WITH_ZONE = r"\d{2}:\d{2}.*" + ZONE + "$"


def check_zone(name: str) -> None:
    """Raise ValueError for a value of --time-zone that is no time zone, or where this machine knows none."""
    if name == UTC:
        return
    known = zoneinfo.available_timezones() - {"localtime"}  # another zone on another machine
    if not known:
        raise ValueError(
            f"--time-zone {name!r}: this machine has no time zone data; install it with `pip install tzdata`, or the "
            "system's package tzdata"
        )
    if name not in known:
        close = suggestion(name, sorted(known)) or "; write a name of the IANA database, such as Europe/London"
        raise ValueError(f"--time-zone {name!r} is not a time zone{close}")


def local_us(time_us: pa.Array, column: pa.Array, *, zone: str, format: str = "") -> pa.Array:
    """Microseconds on the clock of a zone of each row, given those that `read_times` found in a column.

    Times with a zone or an offset, and epoch numbers, are converted; those without are of the zone already.
    """
    if zone == UTC:
        return time_us
    missing = mask_of(pc.is_null(time_us))
    moved = _has_zone(column, format) & ~missing
    values = pc.fill_null(time_us, 0).to_numpy(zero_copy_only=False).copy()
    # Rows that were rejected may lie beyond the calendar.
    inside = moved & (np.abs(values) < 4_000_000_000 * 1_000_000)
    moments = pd.DatetimeIndex(values[inside].astype("datetime64[us]")).tz_localize(UTC)
    local = moments.tz_convert(zoneinfo.ZoneInfo(zone)).tz_localize(None)
    values[inside] = local.to_numpy().astype("datetime64[us]").astype(np.int64)
    return pa.array(values, mask=missing)


def _has_zone(column: pa.Array, format: str) -> npt.NDArray[np.bool_]:
    """Whether each row of a column is a moment, and not a time on some clock."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return np.full(len(column), getattr(kind, "tz", None) is not None)
    if pa.types.is_date(kind):
        return np.zeros(len(column), np.bool_)
    if "%" in format:
        return np.full(len(column), "%z" in format or "%Z" in format)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.ones(len(column), np.bool_)
    text = as_text(column)[0]
    found = pc.or_(pc.match_substring_regex(text, NUMBER), pc.match_substring_regex(text, _WITH_ZONE))
    return mask_of(pc.fill_null(found, False))
