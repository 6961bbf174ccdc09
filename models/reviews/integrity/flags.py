"""Flags of reviews: where a person should look, and why; no flag says that a review is not genuine."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.reviews.integrity.bursts import Bursts, bursts
from models.reviews.integrity.minhash import Floats, Ints, Pairs, groups_of, near_duplicates

LEAST_SIMILARITY = 0.55
"""Of pairs of characters, for near-duplicates of reviews; see benchmarks/reviews/integrity.py."""
LEAST_SCORE = 1.0
"""Of a burst, see `bursts`."""
EPOCH = datetime.date(1970, 1, 1)
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Flag:
    """A reason to look at some reviews of a product; `reviews` are their places in the table that was read."""

    kind: Literal["near-duplicates", "burst"]
    product: int
    reviews: tuple[int, ...]
    score: float
    message: str


def flags_of(
    texts: Sequence[str],
    product: Ints,
    times_s: Floats | None,
    positive: Floats,
    *,
    least_similarity: float = LEAST_SIMILARITY,
    least_score: float = LEAST_SCORE,
) -> list[Flag]:
    """The flags of reviews [N], by product: groups of near-duplicates, and days with bursts where times are known.

    `positive` says how positive each review is, from 0 to 1; times are seconds since 1970, NaN where unknown.
    """
    assert len(texts) == len(product) == len(positive)
    pairs = near_duplicates(texts, least_similarity=least_similarity)
    group = groups_of(pairs, len(texts))
    found = _duplicate_flags(group, product)
    if times_s is not None and (known := np.flatnonzero(~np.isnan(times_s))).size:
        place = np.full(len(texts), -1)
        place[known] = np.arange(len(known))
        both = (place[pairs.first] >= 0) & (place[pairs.second] >= 0)
        inside = Pairs(place[pairs.first[both]], place[pairs.second[both]], pairs.similarity[both])
        day = (times_s[known] // SECONDS_A_DAY).astype(np.int64)
        scored = bursts(product[known], day, positive[known], inside)
        found += _burst_flags(scored, least_score, product, times_s)
    return sorted(found, key=lambda flag: (flag.product, -flag.score, flag.reviews))


def _duplicate_flags(group: Ints, product: Ints) -> list[Flag]:
    """A flag for each group of near-duplicates and each of its products."""
    found = []
    sizes = np.bincount(group, minlength=len(group))
    members = np.flatnonzero(sizes[group] > 1)
    for head in np.unique(group[members]):
        rows = members[group[members] == head]
        for one in np.unique(product[rows]):
            own = rows[product[rows] == one]
            others = len(np.unique(product[rows])) - 1
            elsewhere = f", also at {others} other products" if others else ""
            message = f"look here: {len(rows)} reviews say nearly the same{elsewhere}"
            found.append(Flag("near-duplicates", int(one), tuple(own.tolist()), float(len(rows)), message))
    return found


def _burst_flags(scored: Bursts, least_score: float, product: Ints, times_s: Floats) -> list[Flag]:
    found = []
    days = np.floor(times_s / SECONDS_A_DAY)
    for row in np.flatnonzero(scored.score >= least_score):
        rows = np.flatnonzero((product == scored.product[row]) & (days == scored.day[row]))
        date = EPOCH + datetime.timedelta(days=int(scored.day[row]))
        count = int(scored.reviews[row])
        alike = round(float(scored.similarity[row]) * count)
        message = (
            f"look here: {count} reviews on {date}, {scored.expected[row]:.2g} a day are usual; "
            f"{alike} of them resemble another of this product"
        )
        found.append(Flag("burst", int(scored.product[row]), tuple(rows.tolist()), float(scored.score[row]), message))
    return found
