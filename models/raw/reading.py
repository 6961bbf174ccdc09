"""Settings for reading raw tables, the same for every family: format, encoding, and whether there is a header row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "sequences"]
"""`sequences` are lines of words, a table with the single column `line`."""
Header = Literal["auto", "yes", "no"]
AUTO = "auto"


@dataclass(frozen=True)
class Reading:
    """How to read the files of a raw table; `auto` is inferred from each file."""

    format: Format = "auto"
    encoding: str = AUTO
    """A codec of Python; auto is UTF-8, or UTF-16 where the first bytes show it."""
    header: Header = "auto"
    encoding_flag: str = "--encoding"
    """The flag that sets the encoding, for error messages."""

    def __post_init__(self) -> None:
        try:
            "".encode("utf-8" if self.encoding == AUTO else self.encoding)
        except LookupError:
            raise ValueError(
                f"{self.encoding_flag} {self.encoding!r} is not a known encoding; "
                "use e.g. cp1252 (Western Europe), gb18030 (Chinese), cp1251 (Cyrillic), shift_jis or utf-16"
            ) from None


INFERRED = Reading()


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of a family's `prepare` that say how its tables are read."""

    encoding: str = AUTO
    """Encoding of the raw tables, e.g. cp1252, gb18030 or utf-16; auto is UTF-8, or UTF-16 where the first bytes show
    it."""
    header: Header = "auto"
    """Whether CSV and TSV files have a header row; auto infers it and says so if there is none. Then the columns are
    column1, column2, ..."""
    item_encoding: str | None = None
    """Encoding of the item table; by default that of the raw tables."""


def reading_of(settings: TableSettings, *, format: Format = "auto") -> Reading:
    """How to read the raw tables of a family; raises ValueError for an unknown encoding."""
    return Reading(format, settings.encoding, settings.header)


def item_reading_of(settings: TableSettings) -> Reading:
    """How to read a family's item table; raises ValueError for an unknown encoding."""
    encoding = settings.encoding if settings.item_encoding is None else settings.item_encoding
    return Reading(encoding=encoding, encoding_flag="--item-encoding")
