"""The settings of prepare: the sales, costs, demand groups, and the share of periods to validate and test on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt

from models.raw.panel_settings import PanelSettings
from models.settings import check_settings

SIGNALS = ("views", "carts", "conversion", "lead_time")
"""Columns of the sales that say something of the next period's demand."""
COST = "cost"
ATTRIBUTES = ("brand", "group")
TestShare = Annotated[float, Field(ge=0.05, le=0.5)]


@dataclass(frozen=True)
class PrepareConfig(PanelSettings):
    """The sales to read, how products compete, and how to split them by time."""

    raw: str
    """Sales by product and period, or a log of order lines, with prices or revenue: a file, a folder, or a URI such as
    s3://bucket/path; may be compressed. It may also have the columns cost, views, carts, conversion and lead_time."""
    period: Literal["auto", "day", "week", "month", "number"] = field(default="week", kw_only=True)
    """What sales are summed over; prices are learnt from weeks unless months or days are asked for. number: the time is
    the number of a week, such as 40. auto goes by the dates."""
    cost_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Cost of products without one, as a share of their usual price; 0 leaves it unknown: no price is recommended."""
    max_group: Annotated[int, Field(ge=1, le=50)] = 12
    """Products in a demand group, at most: a larger group is cut into some of similar prices."""
    best_sellers: NonNegativeInt = 0
    """Keep this many products, or products in a store, with the highest revenue in training; 0 keeps all."""
    test_share: TestShare = 0.2
    """Share of the periods, the last ones, that is tested on; validation has half as many before them."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def more_numbers(self) -> tuple[str, ...]:
        """Costs and signals of each period."""
        return (COST, *SIGNALS)

    @property
    def more_texts(self) -> tuple[str, ...]:
        """Attributes by which products are grouped, and rules select them."""
        return ATTRIBUTES
