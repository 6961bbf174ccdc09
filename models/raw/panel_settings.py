"""The settings of prepare that say how sales become a panel of product x store x period."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.raw.mapping import parse_mapping
from models.raw.reading import Format, TableSettings
from models.raw.time_zones import UTC, check_zone
from models.raw.times import check_format
from models.settings import Share

Period = Literal["day", "week", "month", "number"]
COLUMNS = (
    "product_id",
    "store_id",
    "timestamp",
    "units",
    "price",
    "revenue",
    "stock",
    "stock_out",
    "promotion",
    "currency",
)
"""Our names of the columns of a sales table."""
REQUIRED = ("product_id", "timestamp", "units")
SYNONYMS = {
    "product_id": ("item_id", "sku"),
    "timestamp": ("date", "day", "week", "month", "period"),
    "units": ("quantity", "sales", "demand"),
}
"""Names that are found without --columns; a log of the recommender family is read as it is."""


@dataclass(frozen=True, kw_only=True)
class PanelSettings(TableSettings):
    """How a sales table or a log of order lines is read and summed to periods; the same for every family of panels."""

    columns: str = ""
    """Column names of the sales, e.g. product_id=StockCode,timestamp=InvoiceDate,units=Quantity,price=UnitPrice; there
    are also store_id, revenue, stock, stock_out, promotion and currency."""
    timestamp_format: str = ""
    """Format of the times, unless it is RFC 3339 or epoch seconds or milliseconds: day-first or month-first for
    dates such as 31.12.2024 or 12/31/2024, or the directives of strptime, e.g. '%d/%m/%Y %H:%M'."""
    time_zone: str = UTC
    """Where days, weeks and months begin, e.g. Europe/London. Times with a zone or an offset and epoch numbers are
    converted to it; those without are of this zone already."""
    format: Format = "auto"
    """File format; auto goes by the file extension."""
    period: Literal["auto", "day", "week", "month", "number"] = "auto"
    """What sales are summed over; auto goes by the dates. number: the time is the number of a period, such as 40."""
    returns: Literal["cancel", "net"] = "cancel"
    """Negative units. cancel: a return of as many units as an order of the same product and period cancels it, and
    others are left out, since demand is what was ordered; net: all are subtracted, down to zero."""
    gaps: Literal["auto", "zero", "unknown"] = "auto"
    """What a period without a row means: no sales, or not known; auto is unknown if the table lists zeros itself."""
    currency: str = ""
    """The currency to keep, where there are several, e.g. GBP."""
    products: str | None = None
    """Product table: cost, list_price, stock, category, size; a file, folder or URI."""
    product_columns: str = ""
    """Column names of the product table, e.g. product_id=StockCode,category=Department."""
    calendar: str | None = None
    """Table of what is known ahead: a date, product_id and store_id where it is of one, and columns of numbers such as
    promotion or holiday, for past and future periods."""
    exclude_products: tuple[str, ...] = ()
    """Ids that are not products, such as the service codes POST,DOT; their rows are quarantined."""
    max_bad_fraction: Share = 0.01
    """Reject the sales when a larger share of the rows is bad; rows of excluded products do not count."""

    @property
    def more_numbers(self) -> tuple[str, ...]:
        """Further columns of numbers that a family reads of the sales, averaged over the rows of a period."""
        return ()

    @property
    def more_texts(self) -> tuple[str, ...]:
        """Further columns of texts that a family reads of the product table."""
        return ()


def check_panel_settings(settings: PanelSettings) -> None:
    """Raise ValueError for flags that cannot be read."""
    parse_mapping(settings.columns, names=(*COLUMNS, *settings.more_numbers))
    parse_mapping(settings.product_columns)
    check_format(settings.timestamp_format)
    check_zone(settings.time_zone)
    if settings.time_zone != UTC and settings.period == "number":
        raise ValueError(
            f"--time-zone {settings.time_zone} says where days begin, and --period number has none; leave one of them "
            "out"
        )
