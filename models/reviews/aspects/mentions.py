"""Mentions of aspects by a lexicon: which aspect, praise or blame, and the words of the text that say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from models.reviews.aspects.lexicon import AspectWords, Lexicon
from models.reviews.sentences import Span, clauses, sentences

CONTRAST_WEIGHT = 2.0
"""What follows "but" counts so often as what is before it, where both are about one aspect."""
NEGATION_TOKENS = 3
"""How many words a negation may stand before the opinion that it turns, in languages with spaces."""
NEGATED_STRENGTH = 0.8
"""The polarity of a negated opinion: "not bad" is weaker than "good"."""
CHINESE_FILLERS = re.compile(
    r"(?:很|太|是|那么|这么|特别|非常|怎么|会|能|有|什么|任何|觉得|感觉|感到|十分|多|一点|啥|大)*$"
)
NEGATION_IS_NONE = re.compile(r"not only|not just|no doubt|no wonder", re.IGNORECASE)
CHINESE_QUESTIONS = ("是不", "好不", "能不")


@dataclass(frozen=True)
class Mention:
    """An aspect that a text speaks of: polarity from -1 to 1, 0 if none is said; `text[start:end]` is the evidence."""

    aspect: str
    polarity: float
    start: int
    end: int


@dataclass(frozen=True)
class _Opinion:
    polarity: float
    start: int
    end: int
    text: str
    sign: float
    """1, or what a negation makes of praise."""

    def as_praise(self, polarity: float) -> _Opinion:
        """The same words, where they are worth `polarity` unless negated."""
        return replace(self, polarity=polarity * self.sign)


def aspects_of(text: str, language: str, lexicon: Lexicon) -> list[Mention]:
    """The mentions of a text in the order of their first characters, one for each aspect and clause.

    `language` is "zh" for texts without spaces between words, anything else for those with. An opinion belongs to the
    nearest term of its clause; a clause without terms belongs to the aspect before it in the sentence.
    """
    matcher = _matcher(lexicon, language == "zh")
    return [
        mention for span in sentences(text) for mention in _of_sentence(matcher.lower(text), span, matcher, lexicon)
    ]


def terms_in(text: str, language: str, lexicon: Lexicon) -> list[Span]:
    """Where the lexicon's names of aspects are in a text."""
    matcher = _matcher(lexicon, language == "zh")
    return [(start, end) for _, start, end in matcher.terms(matcher.lower(text), 0, len(text))]


def merged(mentions: Iterable[Mention]) -> dict[str, float]:
    """The mean polarity of each aspect over its mentions that say one; 0 where none does."""
    found: dict[str, list[float]] = {}
    for mention in mentions:
        found.setdefault(mention.aspect, []).append(mention.polarity)
    said = {aspect: [one for one in all_of if one] for aspect, all_of in found.items()}
    return {aspect: sum(some) / len(some) if some else 0.0 for aspect, some in said.items()}


def _of_sentence(text: str, sentence: Span, matcher: _Matcher, lexicon: Lexicon) -> list[Mention]:
    found: list[Mention] = []
    for start, end, is_contrast in _parts(text, sentence, matcher):
        terms = matcher.terms(text, start, end)
        opinions = matcher.opinions(text, start, end)
        own = _of_clause(terms, opinions, lexicon, matcher)
        if not own and opinions and found and not terms:
            found[-1] = _continued(found[-1], opinions, is_contrast)
        found += own
    return found


def _parts(text: str, sentence: Span, matcher: _Matcher) -> Iterator[tuple[int, int, bool]]:
    """Clauses, also cut before words such as "but", with whether one of them begins it."""
    for start, end in clauses(text, sentence):
        begin, is_contrast = start, False
        for match in matcher.contrast.finditer(text, start, end):
            if match.start() > begin:
                yield begin, match.start(), is_contrast
            begin, is_contrast = match.end(), True
        if begin < end:
            yield begin, end, is_contrast


def _of_clause(
    terms: list[tuple[str, int, int]], opinions: list[_Opinion], lexicon: Lexicon, matcher: _Matcher
) -> list[Mention]:
    """Mentions by the terms of a clause with the opinions nearest to them, and by words that imply an aspect."""
    near: dict[int, list[_Opinion]] = {number: [] for number in range(len(terms))}
    implied = list[Mention]()
    for opinion in opinions:
        meant = matcher.implied.get(opinion.text)
        closest = min(near, key=lambda number: _distance(terms[number], opinion), default=None)
        if meant and (closest is None or terms[closest][0] != meant[0]):
            implied.append(Mention(meant[0], meant[1] * opinion.sign, opinion.start, opinion.end))
        elif closest is not None:
            near[closest].append(opinion)
    found = list[Mention]()
    for number, (aspect, start, end) in enumerate(terms):
        words = lexicon.aspects[aspect]
        said = [one for one in (_about(opinion, words) for opinion in near[number]) if one.polarity]
        polarity = sum(one.polarity for one in said) / max(len(said), 1)
        first = min([start, *(one.start for one in said)])
        last = max([end, *(one.end for one in said)])
        found.append(Mention(aspect, polarity, first, last))
    return sorted(_one_each([*found, *implied]), key=lambda one: (one.start, one.end))


def _one_each(mentions: list[Mention]) -> Iterator[Mention]:
    """One mention for each aspect, of those of one clause."""
    for aspect in dict.fromkeys(one.aspect for one in mentions):
        own = [one for one in mentions if one.aspect == aspect]
        said = [one for one in own if one.polarity] or own
        polarity = sum(one.polarity for one in said) / len(said)
        yield Mention(aspect, polarity, min(one.start for one in said), max(one.end for one in said))


def _continued(mention: Mention, opinions: list[_Opinion], is_contrast: bool) -> Mention:
    """A mention with the opinions of the next clause, which has no term of its own."""
    said = [one for one in opinions if one.polarity]
    if not said or (mention.polarity and not is_contrast):
        return mention
    weight = CONTRAST_WEIGHT if mention.polarity else 1.0
    before = 1.0 if mention.polarity else 0.0
    added = sum(one.polarity for one in said) / len(said)
    polarity = (before * mention.polarity + weight * added) / (before + weight)
    return replace(mention, polarity=polarity, end=max(mention.end, *(one.end for one in said)))


def _distance(term: tuple[str, int, int], opinion: _Opinion) -> tuple[int, int]:
    """Characters between a term and an opinion; of two terms at one distance the earlier is meant."""
    _, start, end = term
    return max(opinion.start - end, start - opinion.end, 0), start


class _Matcher:
    """The words of a lexicon as regular expressions."""

    def __init__(self, lexicon: Lexicon, is_chinese: bool) -> None:
        self.is_chinese = is_chinese
        self.aspect = {term: name for name, one in lexicon.aspects.items() for term in one.terms}
        self.implied: dict[str, tuple[str, float]] = {}
        opinions = dict.fromkeys(lexicon.positive, 1.0) | dict.fromkeys(lexicon.negative, -1.0)
        for name, one in lexicon.aspects.items():
            for word in one.positive | one.negative:
                opinions.setdefault(word, 0.0)
            for some, polarity in ((one.implies_positive, 1.0), (one.implies_negative, -1.0)):
                self.implied |= dict.fromkeys(some, (name, polarity))
                opinions |= {word: opinions.get(word) or polarity for word in some}
        self.polarity = opinions
        self.term = _pattern(self.aspect, is_chinese)
        self.opinion = _pattern([word for word in opinions if word not in self.aspect or opinions[word]], is_chinese)
        self.contrast = _pattern(lexicon.contrasts, is_chinese)
        self.negation = _pattern(lexicon.negations, is_chinese, whole=False)
        self.negations = tuple(sorted(lexicon.negations, key=len, reverse=True))

    def lower(self, text: str) -> str:
        """The text in lower case, with the same offsets."""
        lowered = text.lower().replace("’", "'")
        return lowered if len(lowered) == len(text) else "".join(one.lower()[:1] or one for one in text)

    def terms(self, text: str, start: int, end: int) -> list[tuple[str, int, int]]:
        """The terms of aspects in a part of a text: aspect, start, end."""
        return [(self.aspect[_word(one)], *one.span()) for one in self.term.finditer(text, start, end)]

    def opinions(self, text: str, start: int, end: int) -> list[_Opinion]:
        """The opinions in a part of a text, those behind a negation turned."""
        found = []
        for match in self.opinion.finditer(text, start, end):
            word, (first, last) = _word(match), match.span()
            negation = self._negation(text, start, first)
            sign = 1.0 if negation is None else -NEGATED_STRENGTH
            first = first if negation is None else negation
            found.append(_Opinion(self.polarity[word] * sign, first, last, word, sign))
        return found

    def _negation(self, text: str, start: int, first: int) -> int | None:
        """Where a negation in front of an opinion begins, if there is one."""
        before = text[start:first]
        if self.is_chinese:
            filled = CHINESE_FILLERS.sub("", before)
            for word in self.negations:
                for kept in (before, filled):
                    if kept.endswith(word) and not kept.endswith(CHINESE_QUESTIONS):
                        return start + len(kept) - len(word)
            return None
        tokens = [one.start() for one in re.finditer(r"\S+", before)]
        recent = tokens[-NEGATION_TOKENS] if len(tokens) >= NEGATION_TOKENS else 0
        match = self.negation.search(before, recent)
        return None if match is None or NEGATION_IS_NONE.match(before, match.start()) else start + match.start()


def _about(opinion: _Opinion, words: AspectWords) -> _Opinion:
    """The opinion with the polarity that it has beside a term of one aspect."""
    if opinion.text in words.positive:
        return opinion.as_praise(1.0)
    return opinion.as_praise(-1.0) if opinion.text in words.negative else opinion


@lru_cache(maxsize=64)
def _matcher(lexicon: Lexicon, is_chinese: bool) -> _Matcher:
    return _Matcher(lexicon, is_chinese)


def _word(match: re.Match[str]) -> str:
    return "-".join(match.group().replace("-", " ").split())


def _pattern(words: Iterable[str], is_chinese: bool, *, whole: bool = True) -> re.Pattern[str]:
    """Any of the words, the longest first; matches nothing if there are none."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    if not ordered:
        return re.compile(r"(?!)")
    joined = "|".join(re.escape(word).replace(r"\-", r"[\s-]+") for word in ordered)
    if is_chinese:
        return re.compile(joined)
    return re.compile(rf"(?<![\w'])(?:{joined})(?!\w)" if whole else rf"(?:(?<!\w)|(?=n't))(?:{joined})(?!\w)")
