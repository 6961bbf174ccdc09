"""Sentences and clauses of a review as spans of its text, in Chinese and in languages with spaces."""

from __future__ import annotations

import re

Span = tuple[int, int]
"""Start and end of a part of a text, so that `text[start:end]` is the part."""

SENTENCE_END = re.compile(r"[。！？!?；;…\n\r]+[\"'”’」』）)]*|\.+(?=\s|$)[\"'”’)]*|(?<=[^\x00-\x7f])\s{2,}|~{1,}|～+")
CLAUSE_END = re.compile(r"[，,、：:（）()—]+|\s-+\s|(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])")


def sentences(text: str) -> list[Span]:
    """The sentences without surrounding blanks; a full stop inside a number or a word ends none."""
    return _split(text, SENTENCE_END, 0, len(text))


def clauses(text: str, sentence: Span) -> list[Span]:
    """The clauses of a sentence between commas and the like."""
    return _split(text, CLAUSE_END, *sentence)


def _split(text: str, boundary: re.Pattern[str], start: int, end: int) -> list[Span]:
    found, begin = [], start
    for match in boundary.finditer(text, start, end):
        # The mark that ends a sentence belongs to it; a comma belongs to no clause.
        found.append((begin, match.end() if boundary is SENTENCE_END else match.start()))
        begin = match.end()
    stripped = (_stripped(text, first, last) for first, last in [*found, (begin, end)])
    return [span for span in stripped if span[0] < span[1] and any(one.isalnum() for one in text[span[0] : span[1]])]


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
