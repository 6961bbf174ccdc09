"""What the network of polarity reads of a term in its sentence: n-grams by place, opinions near it, and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from models.reviews.aspects.lexicon import Lexicon
from models.reviews.aspects.tokens import Token, character_grams, hashed, tokens_of

NUM_WIDE, NUM_WORDS, NUM_GRAMS = 2**16, 2**12, 2**13
NUM_TOKENS, GRAMS_A_TOKEN, MOST_WIDE = 40, 8, 400
MOST_DISTANCE = 12
SCOPES = ("all", "segment", "clause", "near", "nearer")
NUM_OPINIONS = 4 * len(SCOPES) + 7
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TermInputs:
    """Arrays of N terms; tokens are the NUM_TOKENS around each, padded with 0."""

    wide: Ints
    """Buckets of n-grams [N, MOST_WIDE], 0 where there are fewer."""
    wide_weights: Floats
    opinions: Floats
    """Numbers and kinds of opinions by distance from the term [N, NUM_OPINIONS]."""
    words: Ints
    grams: Ints
    """Buckets of character n-grams [N, NUM_TOKENS, GRAMS_A_TOKEN]."""
    distance: Ints
    """Places from the term, shifted to be above 0 [N, NUM_TOKENS]; 0 is padding."""
    marks: Floats
    """Praise, blame, negated, in the term's segment, in the term [N, NUM_TOKENS, 5]."""

    def __len__(self) -> int:
        return len(self.wide)

    def rows(self, rows: Ints) -> TermInputs:
        """Some of the terms."""
        return TermInputs(*(getattr(self, one.name)[rows] for one in fields(self)))


def term_inputs(texts: Sequence[str], starts: Sequence[int], ends: Sequence[int], lexicon: Lexicon) -> TermInputs:
    """The inputs of the terms `texts[i][starts[i]:ends[i]]`; raises ValueError where a term is not in its text."""
    num = len(texts)
    found = TermInputs(
        wide=np.zeros((num, MOST_WIDE), np.int64),
        wide_weights=np.zeros((num, MOST_WIDE), np.float32),
        opinions=np.zeros((num, NUM_OPINIONS), np.float32),
        words=np.zeros((num, NUM_TOKENS), np.int64),
        grams=np.zeros((num, NUM_TOKENS, GRAMS_A_TOKEN), np.int64),
        distance=np.zeros((num, NUM_TOKENS), np.int64),
        marks=np.zeros((num, NUM_TOKENS, 5), np.float32),
    )
    for row, (text, start, end) in enumerate(zip(texts, starts, ends, strict=True)):
        if not 0 <= start < end <= len(text):
            raise ValueError(f"a term from {start} to {end} is not inside its text of {len(text)} characters")
        tokens = tokens_of(text, lexicon)
        inside = [place for place, one in enumerate(tokens) if one.end > start and one.start < end]
        if inside:
            _fill(found, row, tokens, (inside[0], inside[-1]))
    return found


def _fill(found: TermInputs, row: int, tokens: list[Token], term: tuple[int, int]) -> None:
    first, last = term
    away = [
        0 if first <= place <= last else place - last if place > last else place - first for place in range(len(tokens))
    ]
    named = _wide(tokens, away, first)
    kept = list(named.items())[:MOST_WIDE]
    norm = sum(weight**2 for _, weight in kept) ** 0.5 or 1.0
    for column, (bucket, weight) in enumerate(kept):
        found.wide[row, column], found.wide_weights[row, column] = bucket, weight / norm
    found.opinions[row] = _opinions(tokens, away, first)
    begin = max(0, min(first - NUM_TOKENS // 2, len(tokens) - NUM_TOKENS))
    for column, (token, distance) in enumerate(zip(tokens[begin:], away[begin:], strict=True)):
        if column == NUM_TOKENS:
            break
        found.words[row, column] = hashed(token.word, NUM_WORDS)
        for number, gram in enumerate(character_grams(token.word, GRAMS_A_TOKEN)):
            found.grams[row, column, number] = hashed(gram, NUM_GRAMS)
        found.distance[row, column] = max(-MOST_DISTANCE, min(MOST_DISTANCE, distance)) + MOST_DISTANCE + 1
        is_near = token.segment == tokens[first].segment
        found.marks[row, column] = (token.polarity > 0, token.polarity < 0, token.is_negated, is_near, distance == 0)


def _wide(tokens: list[Token], away: list[int], first: int) -> dict[int, float]:
    """Weights of the buckets of n-grams: anywhere, in the term's segment, near it on each side, and in it."""
    found: dict[int, float] = {}

    def add(name: str, weight: float = 1.0) -> None:
        bucket = hashed(name, NUM_WIDE)
        found[bucket] = found.get(bucket, 0.0) + weight

    said = [f"NOT_{one.word}" if one.is_negated else one.word for one in tokens]
    for place, (token, distance) in enumerate(zip(tokens, away, strict=True)):
        if not distance:
            add(f"term {token.word}")
            continue
        closeness, side = 1 / (1 + 0.15 * abs(distance)), "before" if distance < 0 else "after"
        add(f"any {said[place]}", closeness)
        if token.segment == tokens[first].segment:
            add(f"segment {said[place]}", closeness)
        if abs(distance) <= 5:
            add(f"near {said[place]}")
            add(f"{side} {said[place]}")
        if abs(distance) <= 2:
            add(f"{distance} {said[place]}")
        if place + 1 < len(tokens) and away[place + 1]:
            add(f"two {said[place]} {said[place + 1]}", closeness)
            if abs(distance) <= 6:
                add(f"near two {said[place]} {said[place + 1]}")
        if place + 2 < len(tokens):
            add(f"three {' '.join(one.word for one in tokens[place : place + 3])}", 0.7 * closeness)
    return found


def _opinions(tokens: list[Token], away: list[int], first: int) -> list[float]:
    """For each scope: praise, blame, both, neither; then what is nearest, closeness of each side, and marks."""
    found = list[float]()
    here = tokens[first]
    opinions = [(one, abs(distance)) for one, distance in zip(tokens, away, strict=True) if one.polarity]
    scopes = [
        [one for one, _ in opinions],
        [one for one, _ in opinions if one.segment == here.segment],
        [one for one, _ in opinions if one.clause == here.clause],
        [one for one, distance in opinions if distance <= 6],
        [one for one, distance in opinions if distance <= 3],
    ]
    for scope in scopes:
        praise, blame = (sum(one.polarity == sign for one in scope) for sign in (1, -1))
        found += [min(praise, 3), min(blame, 3), float(bool(praise and blame)), float(not praise and not blame)]
    nearest = min(opinions, key=lambda pair: pair[1], default=None)
    found.append(nearest[0].polarity / (1 + 0.1 * nearest[1]) if nearest else 0.0)
    found += [sum(1 / (1 + 0.3 * far) for one, far in opinions if one.polarity == sign) for sign in (1, -1)]
    words = {one.word for one in tokens}
    found += [float("but" in words), float("?" in words), float("!" in words), float(here.is_negated)]
    return found
