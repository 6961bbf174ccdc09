"""The settings of prepare: the sales, how many of the products, and the windows of validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from models.raw.panel_settings import PanelSettings
from models.settings import check_settings

Horizon = Annotated[int, Field(ge=0, le=400)]


@dataclass(frozen=True)
class PrepareConfig(PanelSettings):
    """The sales to read, and how to split them by time."""

    raw: str
    """Sales by product and period, a log of order lines, or a wide table with a column for each period: a file, a
    folder, or a URI such as s3://bucket/path; may be compressed."""
    horizon: Horizon = 0
    """Periods of a forecast; 0 is 28 days, 8 weeks or 3 months."""
    windows: PositiveInt = 1
    """Windows of a horizon that are tested on; validation has as many, before them."""
    best_sellers: NonNegativeInt = 0
    """Keep this many products, or products in a store, with the most units before validation; 0 keeps all."""
    min_sold: NonNegativeInt = 1
    """Leave out series with fewer periods with sales than this, over all of the time."""

    def __post_init__(self) -> None:
        check_settings(self)
