"""The dialect of delimited text, inferred from its first rows: delimiter, quotes, escapes, header row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from models.raw.encodings import escaped
from models.raw.quotes import Form, shape_of
from models.raw.reading import Header

SAMPLE_BYTES = 256 * 1024
MAX_SAMPLE_ROWS = 1000
DELIMITERS = (",", ";", "\t", "|")
RIGID_SHARE = 0.98
"""Share of a column's values that must have one shape for that shape to tell rows from parts of values."""
_SEP = re.compile(rb'"?sep=(.)"?\n', re.IGNORECASE)
_STARTS_WITH_DIGIT = re.compile(r"^[-+]?\d")


@dataclass(frozen=True)
class Dialect:
    """How a delimited text is written."""

    form: Form
    names: tuple[str, ...]
    """The columns without surrounding spaces; without a header row column1, column2, ..."""
    raw_names: tuple[str, ...]
    """The header as it is written; empty without a header row."""
    is_quoted: bool
    has_backslashes: bool
    """Whether a backslash escapes a quote within quotes, as MySQL and Spark write it."""
    num_header_bytes: int
    """Length of what precedes the first row."""
    notes: tuple[str, ...]
    """What was inferred and may surprise, as sentences."""


@dataclass(frozen=True)
class _Trial:
    """The sample, read in one dialect."""

    delimiter: str
    is_quoted: bool
    has_backslashes: bool
    rows: list[list[str]]
    num_header_lines: int
    share: float
    """Share of the rows that have as many fields as most of the first ones."""
    num_fields: int


def infer(sample: bytes, *, is_tsv: bool, header: Header, is_whole: bool) -> Dialect | None:
    """The dialect of a text that begins with `sample` (LF line ends), None if the text is empty.

    `is_whole` says that the sample is the whole text, so that its last line is complete.
    """
    separator = _SEP.match(sample)
    start = separator.end() if separator else 0
    start += len(sample[start:]) - len(sample[start:].lstrip(b"\n"))
    text = sample[start:]
    if not text.strip():
        return None
    if not is_whole and b"\n" in text:
        text = text[: text.rindex(b"\n") + 1]
    best = _best(text, [separator[1].decode("latin-1")] if separator else _candidates(text, is_tsv=is_tsv))
    data = [row for row in best.rows[1:] if len(row) == best.num_fields]
    has_header = header == "yes" or (header == "auto" and not _looks_like_data(best.rows[0], data))
    if not has_header:
        data = [row for row in best.rows if len(row) == best.num_fields]
    raw_names = tuple(best.rows[0]) if has_header else ()
    names = tuple(_text(name).strip() for name in raw_names) or tuple(f"column{n + 1}" for n in range(best.num_fields))
    num_fields = len(names)
    if has_header and data and best.num_fields == len(names) + 1 and not any(row[-1] for row in data):
        num_fields += 1
    form = Form(best.delimiter, num_fields, _rigid(data, num_fields))
    length = sum(len(line) + 1 for line in text.split(b"\n")[: best.num_header_lines]) if has_header else 0
    notes = _notes(best, names=names, has_header=has_header, is_inferred=header == "auto")
    return Dialect(
        form, names, raw_names, best.is_quoted, best.has_backslashes, min(start + length, len(sample)), notes
    )


def without_backslashes(text: bytes) -> bytes:
    """Text in which a backslash escapes quotes and itself as standard CSV, where a quote in quotes is doubled."""
    return re.sub(rb'\\(?:(")|(\\))', rb"\1\1\2", text) if b"\\" in text else text


def looks_delimited(sample: bytes) -> bool:
    """Whether the lines of a text are rows of a table with commas, semicolons or bars, not words."""
    lines = [line for line in sample.split(b"\n")[:-1] or [sample] if line.strip()][:100]
    return bool(lines) and any(
        lines[0].count(delimiter) > 0 and sum(line.count(delimiter) > 0 for line in lines) >= 0.9 * len(lines)
        for delimiter in (b",", b";", b"|")
    )


def _candidates(text: bytes, *, is_tsv: bool) -> Sequence[str]:
    return ("\t",) if is_tsv and b"\t" in text.split(b"\n", 1)[0] else DELIMITERS


def _best(text: bytes, delimiters: Sequence[str]) -> _Trial:
    trials = [_trial(text, delimiter, is_quoted=True) for delimiter in delimiters]
    best = max(trials, key=lambda trial: (trial.num_fields > 1, trial.share, trial.num_fields))
    escapes = re.findall(rb'\\"(.?)', text)
    if escapes:
        other = _trial(without_backslashes(text), best.delimiter, is_quoted=True, has_backslashes=True)
        inside = any(after not in (b"", b'"', best.delimiter.encode()) for after in escapes)
        if (other.share, inside) > (best.share, False):
            best = other
    if best.delimiter == "\t" and not _has_tab_quoting(text, best):
        return _trial(text, "\t", is_quoted=False)
    return best


def _trial(text: bytes, delimiter: str, *, is_quoted: bool, has_backslashes: bool = False) -> _Trial:
    """Read the sample; characters stand for bytes."""
    lines = text.decode("latin-1").removesuffix("\n").split("\n")
    reader = csv.reader(
        (line + "\n" for line in lines),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
    )
    rows: list[list[str]] = []
    num_header_lines = 0
    try:
        for row in reader:
            rows.append(row)
            if len(rows) == 1:
                num_header_lines = reader.line_num
            if len(rows) > MAX_SAMPLE_ROWS:
                break
    except csv.Error:  # a field longer than the csv module allows
        pass
    rows = [row for row in rows if row] or [lines[0].split(delimiter)]
    lengths = Counter(len(row) for row in rows[1:])
    wide = len(rows[0])
    # Rows may end with a delimiter where the header does not.
    usual = next((length for length, _ in lengths.most_common(1) if length == wide + 1 and not _has_last(rows)), wide)
    share = lengths[usual] / lengths.total() if lengths else 1.0
    return _Trial(delimiter, is_quoted, has_backslashes, rows, max(num_header_lines, 1), share, usual)


def _has_last(rows: list[list[str]]) -> bool:
    return any(row[-1] for row in rows[1:] if len(row) == len(rows[0]) + 1)


def _has_tab_quoting(text: bytes, trial: _Trial) -> bool:
    """Whether quotes around values of tab-separated text are not part of them.

    So it is if all names of the header are quoted, or if every quoted value is closed properly and one has something
    that needs quotes.
    """
    header = text.split(b"\n", 1)[0].split(b"\t")
    if all(len(name) > 1 and name.startswith(b'"') and name.endswith(b'"') for name in header):
        return True
    opened = len(re.findall(rb'(?:^|\t)"', text, re.MULTILINE))
    closed = re.findall(rb'(?:^|(?<=\t))"((?:[^"]|"")*+)"(?=\t|\n|\Z)', text, re.MULTILINE)
    needs = any(b'""' in value or b"\t" in value for value in closed)
    return trial.share == 1.0 and opened == len(closed) and needs


def _looks_like_data(first: list[str], data: list[list[str]]) -> bool:
    """Whether the first row has the shapes of the others, at least one of them a number or a time."""
    shapes = dict(_rigid(data, len(first)))
    if not shapes or not any(_STARTS_WITH_DIGIT.match(first[index].strip()) for index in shapes if index < len(first)):
        return False
    return all(shape_of(first[index]) == shape for index, shape in shapes.items() if index < len(first))


def _rigid(rows: list[list[str]], num_fields: int) -> tuple[tuple[int, str], ...]:
    """The columns whose values have one shape, which has a digit in it."""
    found = []
    for index in range(num_fields):
        shapes = Counter(shape_of(row[index]) for row in rows if len(row) > index and row[index].strip())
        for shape, count in shapes.most_common(1):
            if "9" in shape and count >= RIGID_SHARE * shapes.total():
                found.append((index, shape))
    return tuple(found)


def _notes(trial: _Trial, *, names: tuple[str, ...], has_header: bool, is_inferred: bool) -> tuple[str, ...]:
    notes = []
    if not has_header:
        why = "its first row looks like data; if it is a header, set --header yes" if is_inferred else "--header no"
        notes.append(f"no header row ({why}): its columns are called {', '.join(names)}")
    if trial.has_backslashes:
        notes.append("backslashes escape quotes")
    return tuple(notes)


def _text(characters: str) -> str:
    return escaped(characters.encode("latin-1"))
