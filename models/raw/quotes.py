"""Quotes in delimited text: which lines belong to one row, and which quotes were never closed."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

MAX_VALUE_BYTES = 1024 * 1024
"""A value of several lines that is longer was opened by a stray quote."""
_CLOSED = b'"(?:[^"]++|"")*+"'


@dataclass(frozen=True)
class Form:
    """What a row looks like: the number of its fields, and the shapes that the values of some columns always have."""

    delimiter: str
    num_fields: int
    shapes: tuple[tuple[int, str], ...] = ()
    """Index of a column and the shape of all its values, see `shape_of`."""

    def fields(self, text: bytes) -> list[str] | None:
        """The fields of one row, None if it cannot be parsed; characters stand for bytes."""
        try:
            rows = list(csv.reader(text.decode("latin-1").split("\n"), delimiter=self.delimiter))
        except csv.Error:  # a field longer than the csv module allows
            return None
        return rows[0] if len(rows) == 1 else None

    def is_row(self, line: bytes) -> bool:
        """Whether a line on its own looks like a row, and not like a part of a value."""
        if line.count(self.delimiter.encode()) < self.num_fields - 1:
            return False
        values = self.fields(line)
        if values is None or len(values) != self.num_fields:
            return False
        if not self.shapes:
            return self.num_fields > 2
        known = [(values[index], shape) for index, shape in self.shapes if values[index]]
        return bool(known) and all(shape_of(value) == shape for value, shape in known)

    @cached_property
    def ends_outside(self) -> re.Pattern[bytes]:
        """Matches a line that begins and ends outside of quotes: a quote opens only at the start of a field."""
        other = b"[^%s]*+" % re.escape(self.delimiter.encode())
        one = b'(?:%s%s|(?!")%s)' % (_CLOSED, other, other)
        return re.compile(b"%s(?:%s%s)*+" % (one, re.escape(self.delimiter.encode()), one))

    @cached_property
    def closes(self) -> re.Pattern[bytes]:
        """Matches a line that begins inside of quotes and ends outside."""
        delimiter = re.escape(self.delimiter.encode())
        other = b"[^%s]*+" % delimiter
        return re.compile(b'(?:[^"]++|"")*+"(?:%s(?:%s%s|(?!")%s))*+' % (delimiter, _CLOSED, other, other))


@dataclass
class Split:
    """Text cut into the rows that can be parsed, and the lines that open a quote which is never closed."""

    text: bytes
    num_rows: int
    open_quotes: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    """The beginning of a row whose end is not there yet."""


def shape_of(value: str) -> str:
    """A value with its digits as 9 and its letters as a, each run of them once: u27 is a9."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", value.strip()))


def split_rows(text: bytes, form: Form, *, is_last: bool, is_thorough: bool = False) -> Split:
    """Find the lines whose quote is never closed, so that it does not swallow the rows after it.

    A quote is stray if a line that looks like a row follows before it is closed, if the row has a wrong number of
    fields, or if the value is longer than MAX_VALUE_BYTES. Only lines with an odd number of quotes and the last
    line are looked at, unless `is_thorough`.
    """
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    if not text.endswith(b"\n"):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lines = _Lines(text, starts, ends, form)
    is_quote = (characters == ord('"')).view(np.uint8)
    # The last line too, whose open quote changes no number of rows.
    is_suspicious = np.add.reduceat(is_quote, starts) & 1
    is_suspicious[-1] = 1
    suspicious = np.flatnonzero(np.maximum.reduceat(is_quote, starts) if is_thorough else is_suspicious)
    has_text = ends > starts
    found = Split(text, int(has_text.sum()))
    stray: list[int] = []
    covered, until = -1, len(text)
    for opening in suspicious.tolist():
        if opening <= covered or form.ends_outside.fullmatch(lines.line(opening)):
            continue
        closing = lines.closing(opening)
        if closing is None and not is_last and len(text) - starts[opening] < MAX_VALUE_BYTES:
            until = int(starts[opening])
            found.rest = text[until:]
            found.num_rows -= int(has_text[opening:].sum())
            break
        if closing is None or closing == opening:
            stray.append(opening)
            found.num_rows -= 1
        else:
            found.num_rows -= int(has_text[opening + 1 : closing + 1].sum())
            covered = closing
    found.open_quotes = [lines.line(number) for number in stray]
    found.text = lines.without(stray, until=until)
    return found


@dataclass(frozen=True)
class _Lines:
    text: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    form: Form

    def line(self, number: int) -> bytes:
        return self.text[self.starts[number] : self.ends[number]]

    def closing(self, opening: int) -> int | None:
        """The line in which the quote that `opening` opens is closed; `opening` itself if it is stray, None if open."""
        start = self.starts[opening]
        for number in range(opening + 1, len(self.ends)):
            if self.ends[number] - start > MAX_VALUE_BYTES:
                return opening
            line = self.line(number)
            if self.form.is_row(line):
                return opening
            if b'"' in line and self.form.closes.fullmatch(line):
                values = self.form.fields(self.text[start : self.ends[number]])
                return number if values is not None and len(values) == self.form.num_fields else opening
        return None

    def without(self, numbers: Sequence[int], *, until: int) -> bytes:
        """The text up to a position, without some lines."""
        parts, position = [], 0
        for number in numbers:
            parts.append(self.text[position : self.starts[number]])
            position = min(int(self.ends[number]) + 1, len(self.text))
        return b"".join([*parts, self.text[position:until]]) if parts else self.text[:until]
