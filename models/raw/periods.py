"""Periods of a panel: days, weeks, months or given numbers, as whole numbers that count on without gaps."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

from models.errors import DataRejected
from models.raw.panel_settings import Period

Int64s = npt.NDArray[np.int64]

US_PER_DAY = 86_400_000_000
MIN_DATES_OF_CALENDAR = 8
"""A series has a calendar of its own if it has so many dates: eight sales at random are rarely all on one weekday."""
MAX_MIXED = 0.1
"""More series with a calendar of their own than this share are not an accident."""
_EPOCH = date(1970, 1, 1)
_MONDAY_SHIFT = 3
"""1970 began on a Thursday."""


def days_of(time_us: Int64s) -> Int64s:
    """Days since 1970 of times in microseconds."""
    return time_us // US_PER_DAY


def ordinals(days: Int64s, period: Period) -> Int64s:
    """The number of the period of each day; weeks begin on Monday."""
    if period == "month":
        months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        return np.asarray(months, np.int64)
    return (days + _MONDAY_SHIFT) // 7 if period == "week" else days


def date_of(ordinal: int, period: Period) -> str:
    """The first day of a period as YYYY-MM-DD; the number itself where periods have no dates."""
    if period == "number":
        return str(ordinal)
    if period == "month":
        return f"{1970 + ordinal // 12:04d}-{ordinal % 12 + 1:02d}-01"
    return (_EPOCH + timedelta(days=ordinal * 7 - _MONDAY_SHIFT if period == "week" else ordinal)).isoformat()


def ordinal_of(text: str, period: Period) -> int:
    """The number of the period in which a date YYYY-MM-DD is; ValueError for other texts."""
    if period == "number":
        return int(text)
    try:
        days = (date.fromisoformat(text[:10]) - _EPOCH).days
    except ValueError:
        raise ValueError(f"{text!r} is not a date; write YYYY-MM-DD") from None
    return int(ordinals(np.array([days]), period)[0])


def choose_period(days: Int64s, series: Int64s, names: list[str], *, source: str) -> Period:
    """The period of sales by their dates; raises DataRejected where some series have another calendar than others.

    `days` and `series` (an index of `names`) are of each row.
    """
    distinct = np.unique(days)
    if len(distinct) >= 2 and _are_months(distinct):
        return "month"
    if len(distinct) >= 2 and _are_weeks(distinct):
        return "week"
    pairs = np.unique(np.stack([series, days], 1), axis=0)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    groups = [group for group in np.split(pairs[:, 1], starts[1:]) if len(group) >= MIN_DATES_OF_CALENDAR]
    mixed = [place for place, group in enumerate(np.split(pairs[:, 1], starts[1:])) if _has_own_calendar(group)]
    if groups and len(mixed) > MAX_MIXED * len(groups):
        first = names[int(pairs[starts[mixed[0]], 0])]
        raise DataRejected(
            f"{source}: {len(mixed):,} of {len(groups):,} series, such as {first!r}, have one row a week or month, "
            f"{'on different days' if len(mixed) == len(groups) else 'and the others have daily rows'}: sum all to "
            "weeks or months with --period week or --period month, or prepare them apart"
        )
    return "day"


def coarser(days: Int64s, period: Period) -> Period | None:
    """The period that all dates of some days point to, if it is longer than the given one."""
    distinct = np.unique(days)
    if period not in ("day", "week") or len(distinct) < MIN_DATES_OF_CALENDAR:
        return None
    return "month" if _are_months(distinct) else "week" if period == "day" and _are_weeks(distinct) else None


def early_dates(days: Int64s) -> tuple[int, int] | None:
    """The first day, and the first one of 99 % of the rows, where more time lies between them than after the latter."""
    first, usual, last = int(days.min()), int(np.quantile(days, 0.01)), int(days.max())
    return (first, usual) if usual - first > max(last - usual, 31) else None


def _has_own_calendar(days: Int64s) -> bool:
    return len(days) >= MIN_DATES_OF_CALENDAR and (_are_weeks(days) or _are_months(days))


def _are_weeks(days: Int64s) -> bool:
    return bool((np.diff(days) % 7 == 0).all())


def _are_months(days: Int64s) -> bool:
    dates = days.astype("datetime64[D]")
    within = (dates - dates.astype("datetime64[M]")).astype(np.int64)
    is_last = (dates + 1).astype("datetime64[M]") > dates.astype("datetime64[M]")
    return bool((within == 0).all() or is_last.all())
