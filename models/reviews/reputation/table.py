"""The reputation table: a row for each product, for people, for the endpoint and as item features of a recommender."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.mentions import Mention, aspects_of
from models.reviews.aspects.reading import SEEDS
from models.reviews.integrity.flags import LEAST_SCORE, LEAST_SIMILARITY, Flag, flags_of
from models.reviews.reputation.prior import Floats, Ints
from models.reviews.reputation.reviews import Reviews, read_reviews
from models.reviews.reputation.score import (
    HALF_LIFE_DAYS,
    WEEK_DAYS,
    Changes,
    Reputations,
    changes,
    reputations,
    weights_of,
)
from models.reviews.summary import AspectSummary, summarise

MOST_FLAGS = 20
"""Flags that a row shows; `num_flags` counts all."""


@dataclass(frozen=True)
class TableSettings:
    """How the table is computed."""

    half_life_days: float = HALF_LIFE_DAYS
    change_days: float = WEEK_DAYS
    quotes: int = 2
    least_similarity: float = LEAST_SIMILARITY
    least_score: float = LEAST_SCORE
    now_s: float | None = None
    """The time from which ages count, in seconds since 1970; by default that of the newest review."""


def reputation_table(
    reviews: pa.Table,
    scores: Floats | None = None,
    *,
    mentions: Sequence[Sequence[Mention]] | None = None,
    lexicons: Mapping[str, Lexicon] = SEEDS,
    settings: TableSettings | None = None,
) -> pa.Table:
    """A row for each product of the reviews, in the order of their ranks.

    `reviews` has the columns `product` and `text`, and may have `category`, `language` ("zh", "en"), `time_s`
    (seconds since 1970; unknown ones count as of today) and `rating` (1 to 5). `scores` are calibrated probabilities
    [N] that a review is positive; without them ratings are used. `mentions` are those of a network, for each
    review; without them those of the lexicons. Raises ValueError where columns or values are missing.
    """
    chosen = settings or TableSettings()
    read = read_reviews(reviews, scores)
    ages = read.ages_days(chosen.now_s)
    found = reputations(
        read.product,
        read.positive,
        weights_of(ages, chosen.half_life_days),
        num_products=len(read.names),
        categories=read.categories,
    )
    changed = changes(read.product, read.positive, ages, found, days=chosen.change_days)
    if mentions is None:
        mentions = mentions_of(read, lexicons)
    aspects = list(dict.fromkeys(name for lexicon in lexicons.values() for name in lexicon.aspects))
    aspects += sorted({one.aspect for own in mentions for one in own} - set(aspects))
    flags = _flags(read, chosen)
    own = np.split(np.argsort(read.product, kind="stable"), np.cumsum(found.reviews)[:-1])
    rows = []
    for one in np.argsort(found.rank).tolist():
        summaries = _summary(read, own[one], mentions, chosen.quotes)
        numbers = _numbers(one, read, found, changed)
        rows.append(numbers | _flag_cells(flags.get(one, []), own[one]) | _aspect_cells(summaries, aspects, own[one]))
    return pa.Table.from_pylist(rows, schema=_schema(aspects))


def mentions_of(reviews: Reviews, lexicons: Mapping[str, Lexicon] = SEEDS) -> list[list[Mention]]:
    """The mentions of each review by the lexicon of its language; a language without one has none."""
    return [
        aspects_of(text, language, lexicons[language]) if language in lexicons else []
        for text, language in zip(reviews.texts, reviews.languages, strict=True)
    ]


def _flags(read: Reviews, chosen: TableSettings) -> dict[int, list[Flag]]:
    found: dict[int, list[Flag]] = {}
    for flag in flags_of(
        read.texts,
        read.product,
        read.times_s,
        read.positive,
        least_similarity=chosen.least_similarity,
        least_score=chosen.least_score,
    ):
        found.setdefault(flag.product, []).append(flag)
    return found


def _summary(read: Reviews, rows: Ints, mentions: Sequence[Sequence[Mention]], quotes: int) -> list[AspectSummary]:
    return summarise(
        [read.texts[row] for row in rows],
        [read.languages[row] for row in rows],
        [mentions[row] for row in rows],
        quotes=quotes,
    )


def _numbers(one: int, read: Reviews, found: Reputations, changed: Changes) -> dict[str, Any]:
    return {
        "product": read.names[one],
        "category": read.categories[one] if read.categories else None,
        "reviews": int(found.reviews[one]),
        "effective_reviews": float(found.effective[one]),
        "mean": float(found.mean[one]),
        "low": float(found.low[one]),
        "high": float(found.high[one]),
        "rank": int(found.rank[one]),
        "recent_reviews": int(changed.recent[one]),
        "change": float(changed.since[one] - changed.before[one]),
        "chance_better": float(changed.chance_better[one]),
    }


def _flag_cells(flags: list[Flag], rows: Ints) -> dict[str, Any]:
    flagged = {review for flag in flags for review in flag.reviews}
    return {
        "num_flags": len(flags),
        "flagged_share": len(flagged) / max(len(rows), 1),
        "flags": [flag.message for flag in flags[:MOST_FLAGS]],
    }


def _aspect_cells(summaries: list[AspectSummary], aspects: list[str], rows: Ints) -> dict[str, Any]:
    """Share and polarity of each aspect, and the summary as JSON; quotes name the row of the table that was given."""
    known = {one.aspect: one for one in summaries}
    cells: dict[str, Any] = {}
    for name in aspects:
        cells[f"{name}_share"] = known[name].share if name in known else 0.0
        cells[f"{name}_polarity"] = known[name].polarity if name in known else None
    said = [asdict(one) for one in summaries]
    for quote in (quote for one in said for side in ("praise", "blame") for quote in one[side]):
        quote["review"] = int(rows[quote["review"]])
    return cells | {"summary": json.dumps(said, ensure_ascii=False)}


def _schema(aspects: list[str]) -> pa.Schema:
    number, whole, text = pa.float64(), pa.int64(), pa.string()
    kinds = {"product": text, "category": text, "reviews": whole, "effective_reviews": number}
    kinds |= {"mean": number, "low": number, "high": number, "rank": whole, "recent_reviews": whole, "change": number}
    kinds |= {"chance_better": number, "num_flags": whole, "flagged_share": number, "flags": pa.list_(text)}
    kinds |= {f"{name}_{what}": number for name in aspects for what in ("share", "polarity")}
    return pa.schema([*kinds.items(), ("summary", text)])
