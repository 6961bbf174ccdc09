"""The schema of prepared sales: periods, split, what is known ahead, and the categories of products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.family import Schema as AnySchema
from models.raw.panel_settings import Period
from models.raw.periods import date_of, ordinal_of

NUM_SHARDS = 8
SEASONS = {"day": 7, "week": 52, "month": 12, "number": 52}
"""Periods after which demand repeats itself, as far as it does."""
UNKNOWN, KNOWN, CENSORED = 0, 1, 2
"""Status of a cell: not known, known, or known to be at least what was sold, since stock ran out."""

Floats = npt.NDArray[np.float32]


class Schema(AnySchema):
    """What a network and an endpoint must know of the panel."""

    period: Period
    first: int
    """Number of the first period, see `models.raw.periods`."""
    num_periods: int
    """Periods with sales; the next one is the first of a forecast."""
    horizon: int
    """Periods of a forecast."""
    val_origins: list[int]
    """First periods of the windows that are validated on."""
    test_origins: list[int]
    ahead: list[str] = Field(default_factory=list)
    """Columns of numbers that are known ahead, such as promotion."""
    ahead_scale: list[float] = Field(default_factory=list)
    """Largest absolute value of each."""
    static: dict[str, list[str]] = Field(default_factory=dict)
    """Attribute of products -> its values; the first is empty, for all others."""
    time_zone: str = "UTC"
    """Where periods begin."""
    has_stores: bool = False
    stores: list[str] = Field(default_factory=list)
    """Names of the stores, in order; older data have none, and no calibration of totals of stores by themselves."""
    is_count: bool = True
    """Whether all units are whole numbers."""
    unit: float = 1.0
    """Median of the units of a period with sales."""

    @property
    def season(self) -> int:
        """Periods after which demand repeats itself."""
        return SEASONS[self.period]

    @property
    def train_end(self) -> int:
        """The first period that is not trained on."""
        return min(self.val_origins)

    def date(self, place: int) -> str:
        """The date at which a period begins; `place` counts from the first."""
        return date_of(self.first + place, self.period)

    def place(self, date: str) -> int:
        """The period of a date, counted from the first; ValueError for a text that is none."""
        return ordinal_of(date, self.period) - self.first

    @property
    def num_known(self) -> int:
        """Columns of what is known ahead of a period: the calendar's, and those of the date."""
        return len(self.ahead) + NUM_TIME_FEATURES[self.period]

    def time_features(self, start: int, stop: int) -> Floats:
        """What dates say of the periods start .. stop - 1, [stop - start, NUM_TIME_FEATURES]."""
        numbers = np.arange(self.first + start, self.first + stop)
        if self.period == "number":
            return _waves(numbers / self.season, 2)
        if self.period == "month":
            return np.eye(12, dtype=np.float32)[numbers % 12]
        days = numbers if self.period == "day" else numbers * 7
        year = _waves(days / 365.25, 2)
        if self.period == "week":
            return year
        weekday = np.eye(7, dtype=np.float32)[(days + 3) % 7]
        dates = days.astype("datetime64[D]")
        day = (dates - dates.astype("datetime64[M]")).astype(np.float32)[:, None] / 30 - 0.5
        return np.concatenate([weekday, year, day], 1)


NUM_TIME_FEATURES = {"day": 12, "week": 4, "month": 12, "number": 4}


def _waves(turns: npt.NDArray[np.float64], count: int) -> Floats:
    """Sine and cosine of the first harmonics [N, 2 * count]."""
    angles = 2 * np.pi * turns[:, None] * np.arange(1, count + 1)
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
