"""The tokens of a sentence with their opinions, negations and segments, as networks of aspects read them."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from models.reviews.aspects.lexicon import Lexicon

TOKEN = re.compile(r"n['’]t\b|[A-Za-z]+(?=n['’]t\b)|[A-Za-z]+(?:['’][a-z]+)?|\d+|[^\sA-Za-z\d]")
STOPS = frozenset(".;!?。！？；")
COMMAS = frozenset(",:()-，、：（）") | {"and"}
NEGATED_TOKENS = 4
"""How many tokens a negation turns, unless a comma or a contrast comes first."""


@dataclass(frozen=True)
class Token:
    """A word, number, mark or Chinese character: `text[start:end]` in lower case."""

    word: str
    start: int
    end: int
    polarity: int
    """1 for praise, -1 for blame and 0 for neither, turned where it is negated."""
    is_negated: bool
    segment: int
    """Counts the parts between stops and contrasts such as "but"."""
    clause: int
    """Counts the parts between commas, too."""


def tokens_of(text: str, lexicon: Lexicon) -> list[Token]:
    """The tokens of a text in order."""
    found, segment, clause, negated = list[Token](), 0, 0, 0
    for match in TOKEN.finditer(text):
        word = match.group().lower().replace("’", "'")
        is_break = word in STOPS or word in lexicon.contrasts
        segment += is_break
        clause += is_break or word in COMMAS
        if is_break or word in COMMAS - {"and"}:
            negated = 0
        polarity = (word in lexicon.positive) - (word in lexicon.negative)
        is_negated = negated > 0
        found.append(Token(word, *match.span(), -polarity if is_negated else polarity, is_negated, segment, clause))
        negated = NEGATED_TOKENS if word in lexicon.negations else max(0, negated - 1)
    return found


def hashed(name: str, num_buckets: int) -> int:
    """A bucket from 1 on; 0 is padding."""
    return zlib.crc32(name.encode()) % (num_buckets - 1) + 1


def character_grams(word: str, most: int) -> list[str]:
    """Character 3- to 5-grams of a word with its ends marked, at most so many (Bojanowski et al., 2017)."""
    marked = f"<{word}>"
    grams = [marked[place : place + size] for size in (3, 4, 5) for place in range(len(marked) - size + 1)]
    return grams[:most]
