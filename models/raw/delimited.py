"""Reads CSV and TSV with Arrow, block by block: no row is lost, whatever the quotes in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from models.errors import DataRejected
from models.raw.chunks import Chunk
from models.raw.dialect import SAMPLE_BYTES, Dialect, infer, without_backslashes
from models.raw.encodings import escaped, is_utf8, text_blocks
from models.raw.files import Source
from models.raw.lines import check_line_length
from models.raw.quotes import Split, split_rows


def read_delimited(source: Source) -> Iterator[Chunk]:
    """The rows of a CSV or TSV file as raw bytes, empty values as null; lines that are not rows are separated."""
    blocks = text_blocks(source)
    first, is_whole = b"", True
    for block in blocks:
        first += block
        if len(first) >= SAMPLE_BYTES:
            is_whole = False
            break
    dialect = infer(
        first[:SAMPLE_BYTES],
        is_tsv=source.format == "tsv",
        header=source.reading.header,
        is_whole=is_whole and len(first) <= SAMPLE_BYTES,
    )
    if dialect is None:
        return
    rest = chain((first[dialect.num_header_bytes :],), blocks)
    notes, is_empty = dialect.notes, True
    for text in _complete(_with_doubled_quotes(rest) if dialect.has_backslashes else rest, dialect, source):
        yield _parse(text, dialect, source=source, notes=notes)
        notes, is_empty = (), False
    if is_empty:  # only a header, which names the columns
        yield Chunk(_no_rows(dialect), {})


def _with_doubled_quotes(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The text without backslashes, of which one at the end of a block may escape what follows."""
    held = b""
    for block in blocks:
        text = held + block
        num_backslashes = len(text) - len(text.rstrip(b"\\"))
        held = b"\\" if num_backslashes % 2 else b""
        yield without_backslashes(text[: len(text) - len(held)])
    yield held


def _complete(blocks: Iterable[bytes], dialect: Dialect, source: Source) -> Iterator[Split]:
    """The text in pieces of whole rows."""
    rest = b""
    for block in chain(blocks, (None,)):
        text = rest + (block or b"")
        until = len(text) if block is None else text.rfind(b"\n") + 1
        if until == 0:
            rest = text
            check_line_length(rest, source)
            continue
        if dialect.is_quoted and b'"' in text:
            found = split_rows(text[:until], dialect.form, is_last=block is None)
        else:
            found = Split(text[:until], -1)
        yield found
        rest = found.rest + text[until:]


def _parse(split: Split, dialect: Dialect, *, source: Source, notes: tuple[str, ...]) -> Chunk:
    rows, wrong, num_lost = _counted(split, dialect)
    if num_lost:
        # A quote swallowed lines although each has an even number of them.
        thorough = split_rows(split.text, dialect.form, is_last=True, is_thorough=True)
        split = Split(thorough.text, thorough.num_rows, [*split.open_quotes, *thorough.open_quotes])
        rows, wrong, num_lost = _counted(split, dialect)
    if num_lost:
        raise DataRejected(
            f"{source.path}: its quotes cannot be read, {num_lost:,} rows would be lost; "
            "write it again with quotes doubled within quoted values"
        )
    rows, num_headers = _without_headers(rows, dialect)
    broken = {
        "wrong_number_of_fields": wrong,
        "open_quote": [escaped(line) for line in split.open_quotes],
        "repeated_header": [dialect.form.delimiter.join(dialect.names)] * num_headers,
    }
    return Chunk(rows, {reason: lines for reason, lines in broken.items() if lines}, notes)


def _counted(split: Split, dialect: Dialect) -> tuple[pa.Table, list[str], int]:
    """The rows of a text, its lines with a wrong number of fields, and how many rows it has more than these."""
    rows, wrong = _with_arrow(split.text, dialect)
    return rows, wrong, 0 if split.num_rows == -1 else split.num_rows - rows.num_rows - len(wrong)


def _with_arrow(text: bytes, dialect: Dialect) -> tuple[pa.Table, list[str]]:
    """The rows of a text, and its lines with a wrong number of fields."""
    if not text.strip(b"\n"):
        return _no_rows(dialect), []
    if text.isascii() or is_utf8(text):
        rows, wrong = _parsed(text, dialect)
    else:  # Arrow cannot hand over a line that is not UTF-8, so for it each byte is a character
        rows, wrong = _parsed(text.decode("latin-1").encode(), dialect)
        columns = [_bytes_of_characters(column.combine_chunks()) for column in rows.columns]
        rows, wrong = pa.table(columns, names=rows.column_names), [escaped(line.encode("latin-1")) for line in wrong]
    return rows.rename_columns(list(dialect.names)), wrong


def _no_rows(dialect: Dialect) -> pa.Table:
    return pa.table([pa.array([], pa.binary()) for _ in dialect.names], names=list(dialect.names))


def _parsed(text: bytes, dialect: Dialect) -> tuple[pa.Table, list[str]]:
    wrong: list[str] = []

    def keep(row: pyarrow.csv.InvalidRow) -> Literal["skip"]:
        wrong.append(row.text)
        return "skip"

    # Names of our own, since those of the file may occur twice.
    names = [str(number) for number in range(dialect.form.num_fields)]
    rows = pyarrow.csv.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=len(text) + 1),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=dialect.form.delimiter,
            quote_char='"' if dialect.is_quoted else False,
            newlines_in_values=dialect.is_quoted,
            invalid_row_handler=keep,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.binary() for name in names},
            include_columns=names[: len(dialect.names)],
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return rows, wrong


def _bytes_of_characters(column: pa.Array) -> pa.Array:
    """UTF-8 in which each character stands for a byte, as these bytes; the column is no slice."""
    validity, offsets, data = column.buffers()
    if offsets is None or data is None:
        return column
    characters = data.to_pybytes()
    begins = (np.frombuffer(characters, np.uint8) & 0xC0) != 0x80
    num_before = np.concatenate([[0], np.cumsum(begins)]).astype(np.int32)
    places = np.frombuffer(offsets.to_pybytes(), np.int32)[: len(column) + 1]
    text = characters[: places[-1]].decode().encode("latin-1")
    values = [validity, pa.py_buffer(num_before[places]), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.binary(), len(column), values)


def _without_headers(rows: pa.Table, dialect: Dialect) -> tuple[pa.Table, int]:
    """Rows without those that repeat the header, as files that were joined by `cat` have, and the number of these."""
    if not dialect.raw_names or rows.num_rows == 0:
        return rows, 0
    repeats = np.ones(rows.num_rows, bool)
    for column, name in zip(rows.columns, dialect.raw_names, strict=False):
        is_name = pc.equal(column, pa.scalar(name.encode("latin-1"), pa.binary()))
        repeats &= pc.fill_null(is_name, not name).to_numpy()
        if not repeats.any():
            return rows, 0
    return rows.filter(pa.array(~repeats)), int(repeats.sum())
