"""The settings of prepare: the raw data, the names of its columns, who its users are, and how it is split."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveInt

from models.raw.reading import Format, TableSettings
from models.recommender.schema import Split
from models.settings import Share, check_settings


@dataclass(frozen=True)
class PrepareConfig(TableSettings):
    """The raw data to read, the names of its columns, and how to split it."""

    raw: str
    """Event log: a file, a folder, or a URI such as s3://bucket/path; may be compressed."""
    columns: str = ""
    """Column names of the log, e.g. user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate,price=UnitPrice."""
    timestamp_format: str = ""
    """Format of the log's times, unless it is RFC 3339 or epoch seconds or milliseconds: day-first or month-first for
    dates such as 31.12.2024 or 12/31/2024, or the directives of strptime, e.g. '%d/%m/%Y %H:%M'."""
    format: Format = "auto"
    """File format; auto goes by the file extension. Sequences (.txt) are lines `user item` or `user item item ...`."""
    items: str | None = None
    """Item table: title, category, price or any other attribute; may be the log itself. Attributes improve the ranking
    of rare items, and allow items without events to be recommended, unless the table is the log."""
    item_columns: str = ""
    """Column names of the item table, e.g. item_id=StockCode,title=Description; by default all columns are used."""
    split: Split = "time"
    """time: test on the last events by global time; leave-one-out: test on the last event of each user, validate on the
    one before; held-out-users: test on the last fifth of the events of users who are not trained on."""
    val_from: str | None = None
    """Time of the first validation event (RFC 3339, UTC if it has no zone); by default after 80 % of the events."""
    test_from: str | None = None
    """Time of the first test event; by default after 90 % of the events."""
    target: tuple[str, ...] = ()
    """Event types to evaluate on and to recommend for, e.g. purchase, or all. By default purchases, by the name of the
    type, if there are enough; else additions to a cart; else all."""
    seen: tuple[str, ...] = ()
    """Event types that make an item seen, so that it is not recommended again; all; or none, so that repeated items
    count. By default those of --target and purchases."""
    max_bad_fraction: Share = 0.01
    """Reject the log when a larger share of its rows is bad; rows of excluded items do not count."""
    accept_gaps: bool = False
    """Go on where a file between two others of `events export` is missing; its events are then neither learned from nor
    served."""
    exclude_items: tuple[str, ...] = ()
    """Item ids that are not products, such as the service codes POST,DOT; their rows are quarantined."""
    session_gap: str = "30m"
    """Pause after which a user's next event begins a new session, where no session_id is mapped: 45s, 30m, 2h."""
    collapse_repeats: bool = False
    """Keep the first of events in a row with the same user, item and event type in a session, such as reloads."""
    keep_bots: bool = False
    """Keep the users who act faster than people do; by default their events are quarantined as likely_bot."""
    min_item_events: PositiveInt = 1
    """Leave out the events of items with fewer than this many, again and again together with --min-user-events."""
    min_user_events: PositiveInt = 1
    """Leave out the events of users with fewer than this many; an anonymous session is a user."""

    def __post_init__(self) -> None:
        check_settings(self)
