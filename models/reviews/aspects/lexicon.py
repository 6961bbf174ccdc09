"""A lexicon of aspects and opinions in one language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


def words(text: str) -> frozenset[str]:
    """The words of a text; a hyphen in an English one stands for a space or a hyphen."""
    return frozenset(text.split())


@dataclass(frozen=True)
class AspectWords:
    """The words of one aspect."""

    terms: frozenset[str] = frozenset()
    """What the aspect is called, such as "price"; says nothing about its polarity."""
    positive: frozenset[str] = frozenset()
    """What is praise beside one of the terms, such as "low" beside "price"."""
    negative: frozenset[str] = frozenset()
    """What is blame beside one of the terms."""
    implies_positive: frozenset[str] = frozenset()
    """What mentions and praises the aspect without a term, such as "affordable"."""
    implies_negative: frozenset[str] = frozenset()
    """What mentions and blames the aspect without a term."""

    def with_more(self, more: AspectWords) -> AspectWords:
        """These words and more; a word that `more` calls praise is no longer blame, and the other way round."""
        merged = {one.name: getattr(self, one.name) | getattr(more, one.name) for one in fields(self)}
        for first, second in OPPOSITES:
            merged[first] -= getattr(more, second) - getattr(more, first)
            merged[second] -= getattr(more, first) - getattr(more, second)
        return AspectWords(**merged)


OPPOSITES = (("positive", "negative"), ("implies_positive", "implies_negative"))


@dataclass(frozen=True)
class Lexicon:
    """All words of one language: those of each aspect, and opinions about anything."""

    aspects: Mapping[str, AspectWords]
    positive: frozenset[str] = frozenset()
    negative: frozenset[str] = frozenset()
    negations: frozenset[str] = frozenset()
    contrasts: frozenset[str] = frozenset()
    """Words such as "but", which begin a clause of another polarity."""

    def with_more(self, more: Lexicon) -> Lexicon:
        """This lexicon with the aspects and words of another; where both disagree about a polarity, the other wins."""
        names = [*self.aspects, *(name for name in more.aspects if name not in self.aspects)]
        nothing = AspectWords()
        return Lexicon(
            aspects={
                name: self.aspects.get(name, nothing).with_more(more.aspects.get(name, nothing)) for name in names
            },
            positive=(self.positive - more.negative) | more.positive,
            negative=(self.negative - more.positive) | more.negative,
            negations=self.negations | more.negations,
            contrasts=self.contrasts | more.contrasts,
        )

    def __hash__(self) -> int:
        return id(self)
