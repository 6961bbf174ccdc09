"""The schema of prepared sales: periods, split, products with their demand groups, and what models read."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models.family import Schema as AnySchema
from models.pricing.design import YEARS
from models.raw.panel_settings import Period
from models.raw.periods import date_of

NUM_SHARDS = 8
BLOCKS = {"day": 28, "week": 4, "month": 3, "number": 4}
"""Periods of a block: bootstrap samples and halves keep those of one together."""
DAYS = {"day": 1.0, "week": 7.0, "month": 30.44, "number": 7.0}


class Product(BaseModel):
    """What is known of a product; texts are empty and numbers null where something is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    group: str
    usual: float
    """Mean log price in training."""
    level: float
    """Mean log of the units of a period in training."""
    category: str = ""
    brand: str = ""
    size: float | None = None
    flags: tuple[tuple[str, str], ...] = ()
    """Reasons, name and sentence, why its history cannot say how its demand depends on its price."""


class Schema(AnySchema):
    """What a network and an endpoint must know of the panel."""

    period: Period
    first: int
    """Number of the first period, see `models.raw.periods`."""
    num_periods: int
    """Periods with sales; the next one is that of new prices."""
    train_end: int
    """The first period that is not trained on: validation begins."""
    test_from: int
    products: tuple[Product, ...]
    stores: tuple[str, ...]
    """One empty name for sales without stores."""
    num_rivals: int
    """Products of the largest demand group."""
    context: tuple[str, ...]
    """Names of the columns that do not depend on a price of the period."""
    promotions: tuple[str, ...] = ()
    """Columns of numbers that are known ahead, in the order of the context's promotions."""
    signals: tuple[str, ...] = ()
    is_count: bool = True
    """Whether all units are whole numbers."""
    unit: float = 1.0
    """Median of the units of a row in training."""
    cost_share: float = 0.0
    """Of the usual price, where a product has no cost; 0 if costs are not made up."""
    time_zone: str = "UTC"
    """Where periods begin."""
    has_stores: bool = Field(default=False)

    @property
    def block(self) -> int:
        """Periods of a block."""
        return BLOCKS[self.period]

    @property
    def days_a_period(self) -> float:
        """The length of a period."""
        return DAYS[self.period]

    @property
    def periods_a_year(self) -> float:
        """Periods after which a season repeats itself."""
        return YEARS[self.period]

    def date(self, place: int) -> str:
        """The date at which a period begins; `place` counts from the first."""
        return date_of(self.first + place, self.period)

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """The number of each product; one that is not known has the number after the last."""
        return {product.id: place for place, product in enumerate(self.products)}

    @functools.cached_property
    def store_places(self) -> dict[str, int]:
        """The number of each store; one that is not known has the number after the last."""
        return {store: place for place, store in enumerate(self.stores)}

    @functools.cached_property
    def slots(self) -> tuple[int, ...]:
        """The place of each product in its group."""
        counts: dict[str, int] = {}
        found = []
        for product in self.products:
            found.append(counts.get(product.group, 0))
            counts[product.group] = found[-1] + 1
        return tuple(found)

    @functools.cached_property
    def groups(self) -> dict[str, int]:
        """The number of each group by its name."""
        names = dict.fromkeys(product.group for product in self.products)
        return {name: number for number, name in enumerate(names)}

    def model_post_init(self, _: Any) -> None:
        """Refuse a schema that contradicts itself, such as a damaged one."""
        if len(set(self.slots)) > self.num_rivals:
            raise ValueError("the schema has a demand group of more products than num_rivals")
