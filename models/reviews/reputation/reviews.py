"""The reviews of a shop as columns, read from a table whose mistakes are named."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.reviews.reputation.prior import Floats, Ints
from models.reviews.reputation.score import SECONDS_A_DAY, shares_of_ratings

NEEDED = ("product", "text")
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Reviews:
    """The columns of N reviews of P products."""

    names: tuple[str, ...]
    """The products, sorted [P]."""
    product: Ints
    """Index of each review's product [N]."""
    categories: tuple[str, ...] | None
    """The category of each product [P]: that of most of its reviews."""
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    positive: Floats
    """How positive each review is, from 0 to 1 [N]."""
    times_s: Floats | None
    """Seconds since 1970 [N], NaN where unknown; None where no review has one."""

    def ages_days(self, now_s: float | None) -> Floats:
        """The age of each review in days, by default at the newest one; 0 where it is unknown [N]."""
        if self.times_s is None:
            return np.zeros(len(self.texts))
        now = float(np.nanmax(self.times_s)) if now_s is None else now_s
        return np.nan_to_num((now - self.times_s) / SECONDS_A_DAY, nan=0.0)


def read_reviews(table: pa.Table, scores: Floats | None) -> Reviews:
    """The reviews of a table; see `reputation_table` for its columns. Raises ValueError with what is wrong in it."""
    if missing := [name for name in NEEDED if name not in table.column_names]:
        known = ", ".join(table.column_names)
        raise ValueError(f"the reviews have no column {missing[0]!r}; they have {known}: rename the one that is meant")
    given = table.column("product").to_pylist()
    if None in given:
        raise ValueError(f"row {given.index(None)} of the reviews has no product; leave it out or name its product")
    names, product = np.unique(np.array([str(one) for one in given], dtype=str), return_inverse=True)
    texts = tuple(text or "" for text in table.column("text").to_pylist())
    return Reviews(
        names=tuple(str(name) for name in names),
        product=product.astype(np.int64),
        categories=_categories(table, product.astype(np.int64), len(names)),
        texts=texts,
        languages=_languages(table, texts),
        positive=_positive(table, scores),
        times_s=_times(table),
    )


def _categories(table: pa.Table, product: Ints, num_products: int) -> tuple[str, ...] | None:
    """The most frequent category of each product, of equal ones the first in the alphabet."""
    if "category" not in table.column_names:
        return None
    names = np.array(["" if one is None else str(one) for one in table.column("category").to_pylist()], dtype=str)
    known, codes = np.unique(names, return_inverse=True)
    counts = np.zeros((num_products, len(known)), np.int64)
    np.add.at(counts, (product, codes), 1)
    return tuple(str(known[best]) for best in counts.argmax(1))


def _languages(table: pa.Table, texts: tuple[str, ...]) -> tuple[str, ...]:
    given = table.column("language").to_pylist() if "language" in table.column_names else [None] * len(texts)
    return tuple(
        str(one) if one else ("zh" if CHINESE.search(text) else "en") for one, text in zip(given, texts, strict=True)
    )


def _positive(table: pa.Table, scores: Floats | None) -> Floats:
    if scores is not None:
        if len(scores) != table.num_rows:
            raise ValueError(f"there are {len(scores)} scores for {table.num_rows} reviews; give one for each")
        return np.asarray(scores, np.float64)
    if "rating" not in table.column_names:
        raise ValueError("there are neither scores nor a column 'rating'; give one of them")
    ratings = _numbers(table, "rating")
    if np.isnan(ratings).any():
        row = int(np.flatnonzero(np.isnan(ratings))[0])
        raise ValueError(f"row {row} of the reviews has no rating; leave it out or give scores of a model")
    return shares_of_ratings(ratings)


def _times(table: pa.Table) -> Floats | None:
    if "time_s" not in table.column_names:
        return None
    times = _numbers(table, "time_s")
    return None if np.isnan(times).all() else times


def _numbers(table: pa.Table, name: str) -> Floats:
    values = table.column(name).to_pylist()
    try:
        return np.array([np.nan if one is None else float(one) for one in values], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the column {name!r} of the reviews must have numbers: {error}") from None
