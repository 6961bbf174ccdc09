"""The settings of prepare: the columns of the reviews, what labels mean, and how texts are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from models.raw.mapping import parse_mapping
from models.raw.reading import Format, TableSettings
from models.raw.times import check_format
from models.reviews.schema import CLASSES
from models.settings import Share, check_settings

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("review", "review_text", "reviewtext", "content", "comment", "comments", "body", "评论", "内容"),
    "product_id": ("product", "item_id", "sku", "asin", "商品"),
    "user_id": ("user", "customer_id", "reviewer_id", "reviewerid", "用户"),
    "timestamp": ("time", "date", "created_at", "时间"),
    "rating": ("stars", "score", "overall", "评分"),
    "label": ("sentiment", "polarity", "标签"),
    "category": ("cat", "类别"),
    "aspects": (),
}
"""Our names of the columns, and the names under which they are found without --columns."""
HELD_OUT = ("category", "product_id", "user_id")


@dataclass(frozen=True)
class PrepareConfig(TableSettings):
    """The reviews to read, their labels and their splits."""

    raw: str
    """Reviews, one a row: a file, a folder, or a URI such as s3://bucket/path; may be compressed."""
    columns: str = ""
    """Column names of the reviews, e.g. text=review,category=cat; there are also product_id, user_id, timestamp,
    rating, label and aspects, of which text and one of label and rating are needed."""
    timestamp_format: str = ""
    """Format of the times, unless it is RFC 3339 or epoch seconds or milliseconds: day-first or month-first for
    dates such as 31.12.2024 or 12/31/2024, or the directives of strptime, e.g. '%d/%m/%Y %H:%M'."""
    format: Format = "auto"
    """File format; auto goes by the file extension."""
    label_names: str = ""
    """What the labels mean, e.g. negative=bad,positive=good; 0 and 1, -1 to 1, and the usual English and Chinese words
    are known."""
    rating_max: Annotated[int, Field(ge=2, le=100)] = 5
    """The best rating, of ratings that begin at 1."""
    neutral: Literal["drop", "keep"] = "drop"
    """The reviews with a middle rating, 3 of 5, and no label: drop trains on none of them, keep makes a third class."""
    split: Literal["text", "time"] = "text"
    """How texts are split: by a hash of the text, or by time, the newest being the test."""
    split_seed: NonNegativeInt = 0
    """Another number is another random split."""
    hold_out: str = ""
    """COLUMN=VALUE, e.g. category=books: the reviews with this value are the test split, and of none of them are the
    texts trained on."""
    val_fraction: Share = 0.1
    """Share of the texts in the validation split."""
    test_fraction: Share = 0.2
    """Share of the texts in the test split, unless --hold-out says which."""
    max_chars: PositiveInt = 5000
    """Characters of a review that are read; longer ones are cut off and counted."""
    lexicon: str | None = None
    """A YAML file with more words for aspects, also for aspects of the shop's own, see docs/reviews-reputation.md."""
    aspects: str | None = None
    """Sentences with labelled aspects, on which `train` learns terms and their polarity: XML of SemEval-2014, or a
    table with text, term, polarity, from and to."""
    max_bad_fraction: Share = 0.01
    """Reject the reviews when a larger share of the rows is bad."""

    def __post_init__(self) -> None:
        check_settings(self)


def check_flags(config: PrepareConfig) -> None:
    """Raise ValueError for flags that cannot be read or leave nothing to train on."""
    parse_mapping(config.columns, names=tuple(COLUMNS))
    parse_mapping(config.label_names, names=CLASSES)
    check_format(config.timestamp_format)
    held_out(config)
    if config.val_fraction + config.test_fraction >= 1 or not config.val_fraction or not config.test_fraction:
        raise ValueError(
            f"--val-fraction {config.val_fraction:g} and --test-fraction {config.test_fraction:g} must be positive and "
            "add up to less than 1"
        )


def held_out(config: PrepareConfig) -> list[str]:
    """The column and the value of --hold-out; empty without."""
    if not config.hold_out:
        return []
    column, _, value = config.hold_out.partition("=")
    named = {theirs: ours for ours, theirs in parse_mapping(config.columns, names=tuple(COLUMNS)).items()}
    synonyms = {name: ours for ours, names in COLUMNS.items() for name in names}
    column = named.get(column.strip(), synonyms.get(column.strip().lower(), column.strip()))
    if column not in HELD_OUT or not value.strip():
        raise ValueError(
            f"--hold-out {config.hold_out!r} names no group of reviews; write COLUMN=VALUE with one of "
            f"{', '.join(HELD_OUT)}, e.g. category=books"
        )
    return [column, value.strip()]
