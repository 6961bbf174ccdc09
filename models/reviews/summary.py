"""The summary of a product's reviews: aspects with share and polarity, and verbatim quotes for and against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.reviews.aspects.mentions import Mention
from models.reviews.integrity.minhash import UInts, grams_of, normalised
from models.reviews.sentences import sentences

QUOTES = 2
"""Quotes for each side of an aspect."""
MMR_BALANCE = 0.7
"""How much a quote's own worth counts; the rest is how much it differs from those already chosen."""
QUOTE_GRAM = 3
IDEAL_CHARACTERS = {"zh": 18, "en": 70}
MOST_CHARACTERS = {"zh": 60, "en": 200}
LEAST_POLARITY = 0.15
"""A mention with less is on no side."""
MAX_CANDIDATES = 300
"""Quotes are chosen among so many best sentences of a side."""


@dataclass(frozen=True)
class Quote:
    """A part of a review, as it was written: `texts[review][start:end]`."""

    review: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class AspectSummary:
    """What reviews say of one aspect."""

    aspect: str
    share: float
    """The share of the reviews that mention it."""
    polarity: float
    """The mean polarity, from -1 to 1, of the reviews that mention it."""
    num_positive: int
    num_negative: int
    praise: tuple[Quote, ...]
    blame: tuple[Quote, ...]


def summarise(
    texts: Sequence[str], languages: Sequence[str], mentions: Sequence[Sequence[Mention]], *, quotes: int = QUOTES
) -> list[AspectSummary]:
    """The summary of one product's reviews, the aspect that most reviews mention first.

    `mentions` are those of `aspects_of` or of a network, for each text. Quotes are whole sentences, chosen by maximal
    marginal relevance (Carbonell and Goldstein, 1998); none is generated, so each is a part of its review.
    """
    assert len(texts) == len(languages) == len(mentions)
    by_aspect: dict[str, dict[int, list[Mention]]] = {}
    for review, own in enumerate(mentions):
        for mention in own:
            by_aspect.setdefault(mention.aspect, {}).setdefault(review, []).append(mention)
    found = [_of_aspect(aspect, reviews, texts, languages, quotes) for aspect, reviews in by_aspect.items()]
    return sorted(found, key=lambda one: (-one.share, one.aspect))


def _of_aspect(
    aspect: str, reviews: dict[int, list[Mention]], texts: Sequence[str], languages: Sequence[str], quotes: int
) -> AspectSummary:
    means = {review: float(np.mean([one.polarity for one in own])) for review, own in reviews.items()}
    spans = {review: sentences(texts[review]) for review in reviews}
    sides = []
    for sign in (1, -1):
        candidates = [
            (one.polarity * sign, Quote(review, *span, texts[review][span[0] : span[1]]), languages[review])
            for review, own in reviews.items()
            for one in own
            if one.polarity * sign >= LEAST_POLARITY
            for span in spans[review]
            if span[0] <= one.start and one.end <= span[1]
        ]
        sides.append(tuple(_chosen(candidates, quotes)))
    values = np.array(list(means.values()))
    return AspectSummary(
        aspect=aspect,
        share=len(reviews) / len(texts),
        polarity=float(values.mean()),
        num_positive=int((values >= LEAST_POLARITY).sum()),
        num_negative=int((values <= -LEAST_POLARITY).sum()),
        praise=sides[0],
        blame=sides[1],
    )


def _chosen(candidates: list[tuple[float, Quote, str]], quotes: int) -> list[Quote]:
    """Quotes by maximal marginal relevance; no two reviews twice, no two that say the same."""
    worth = {quote: strength * _fitness(quote, language) for strength, quote, language in candidates}
    ordered = sorted(worth, key=lambda quote: (-worth[quote], quote.review, quote.start))[:MAX_CANDIDATES]
    grams = {quote: grams_of(normalised(quote.text), QUOTE_GRAM) for quote in ordered}
    chosen: list[Quote] = []
    while ordered and len(chosen) < quotes:
        likeness = {
            quote: max((_overlap(grams[quote], grams[one]) for one in chosen), default=0.0) for quote in ordered
        }
        best = max(
            ordered, key=lambda quote: (MMR_BALANCE * worth[quote] - (1 - MMR_BALANCE) * likeness[quote], -quote.review)
        )
        chosen.append(best)
        ordered = [one for one in ordered if one.review != best.review and _overlap(grams[one], grams[best]) < 0.999]
    return chosen


def _fitness(quote: Quote, language: str) -> float:
    """1 for a sentence of the ideal length, less for shorter and longer ones."""
    key = "zh" if language == "zh" else "en"
    length, ideal, most = len(quote.text), IDEAL_CHARACTERS[key], MOST_CHARACTERS[key]
    if length <= ideal:
        return 0.5 + 0.5 * length / ideal
    return max(0.1, 1 - 0.9 * (length - ideal) / (most - ideal))


def _overlap(first: UInts, second: UInts) -> float:
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)
