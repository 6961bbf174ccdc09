"""Sentences with labelled aspects, as prepared data keep them: where the terms are, and what is said of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.reviews.aspects.network import NEUTRAL, POLARITIES

LABELLED = "labelled_aspects.parquet"
"""File of prepared data with labelled aspects."""
UNKNOWN = -1
"""Polarity of a term that has none, or one in conflict with another: the term is found, its polarity not learnt."""
FIELDS = pa.schema(
    [
        ("text", pa.large_string()),
        ("starts", pa.list_(pa.int64())),
        ("ends", pa.list_(pa.int64())),
        ("polarities", pa.list_(pa.int8())),
    ]
)


@dataclass(frozen=True)
class Sentence:
    """A labelled sentence; one without terms says that there is none."""

    text: str
    terms: tuple[tuple[int, int, int], ...]
    """Start, end and polarity, an index of POLARITIES or UNKNOWN, of each."""

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and end of each term."""
        return [(start, end) for start, end, _ in self.terms]


@dataclass(frozen=True)
class PolarTerms:
    """The terms with a known polarity of some sentences, in columns."""

    texts: list[str]
    starts: list[int]
    ends: list[int]
    labels: list[int]


def polar_terms(sentences: Sequence[Sentence]) -> PolarTerms:
    """The terms of sentences whose polarity is known."""
    found = PolarTerms([], [], [], [])
    for one in sentences:
        for start, end, polarity in one.terms:
            if polarity != UNKNOWN:
                found.texts.append(one.text)
                found.starts.append(start)
                found.ends.append(end)
                found.labels.append(polarity)
    return found


def majority_of(sentences: Sequence[Sentence]) -> int:
    """The most frequent known polarity of terms, neutral where there is none."""
    counts = Counter(polar_terms(sentences).labels)
    return max(range(len(POLARITIES)), key=lambda one: (counts[one], one == NEUTRAL))


def as_table(sentences: Sequence[Sentence]) -> pa.Table:
    """Sentences as a table with the columns of FIELDS."""
    columns: list[list[Any]] = [
        [one.text for one in sentences],
        *([[term[n] for term in one.terms] for one in sentences] for n in range(3)),
    ]
    return pa.table([pa.array(values, kind) for values, kind in zip(columns, FIELDS.types, strict=True)], schema=FIELDS)


def read_sentences(directory: Path, split: str | None = None) -> list[Sentence]:
    """The labelled sentences of prepared data, of one split or of all; empty where there are none."""
    path = directory / LABELLED
    if not path.exists():
        return []
    return [
        Sentence(row["text"], tuple(zip(row["starts"], row["ends"], row["polarities"], strict=True)))
        for row in pq.read_table(path).to_pylist()
        if split in (None, row["split"])
    ]
