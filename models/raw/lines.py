"""Reads text line by line: sequences, which are lines of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.chunks import Chunk
from models.raw.encodings import decode, escaped, text_blocks
from models.raw.files import Source

LINE = "line"
MAX_LINE_BYTES = 64 * 1024 * 1024


def read_sequences(source: Source) -> Iterator[Chunk]:
    """The lines of a file as a table with the column LINE; those that are not UTF-8 are separated."""
    for lines in lines_of(text_blocks(source), source):
        text, is_not_utf8 = decode(lines)
        bad = [escaped(value) for value in lines.filter(is_not_utf8).to_pylist()]
        good = text.filter(pc.invert(is_not_utf8))
        yield Chunk(pa.table({LINE: good}), {"not_utf8": bad} if bad else {})


def lines_of(blocks: Iterable[bytes], source: Source) -> Iterator[pa.Array]:
    """The non-blank lines of a text as binary arrays, about a block at a time."""
    rest = b""
    for block in blocks:
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield _split(rest + head)
            rest = tail
        else:
            rest += tail
        check_line_length(rest, source)
    if rest:
        yield _split(rest)


def check_line_length(rest: bytes, source: Source) -> None:
    """Raise DataRejected if the unfinished line of a file is too long."""
    if len(rest) > MAX_LINE_BYTES:
        raise DataRejected(f"{source.path} has a line of more than {MAX_LINE_BYTES:,} bytes; is it another format?")


def _split(block: bytes) -> pa.Array:
    lines = pc.split_pattern(pa.array([block], pa.binary()), b"\n").values
    blank = pc.match_substring_regex(lines, r"^\s*$")
    return lines.filter(pc.invert(blank))
