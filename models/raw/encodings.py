"""The text of a file as UTF-8 with LF line ends, whatever its encoding; and remedies for text that is not UTF-8."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.raw.compression import opened
from models.raw.files import Source
from models.raw.reading import AUTO

BLOCK_BYTES = 8 * 1024 * 1024
_BYTE_ORDER_MARKS = {  # that of UTF-16 LE begins that of UTF-32 LE
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_DETECTION_BYTES = 4096
_BINARY = {
    b"PAR1": "a Parquet file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"%PDF": "a PDF document",
}


def text_blocks(source: Source) -> Iterator[bytes]:
    """The text of a file in blocks of about BLOCK_BYTES, as UTF-8 without byte order mark, lines ending with LF.

    Bytes that the encoding does not allow are kept, so that only the values that have them are rejected.
    """
    with opened(source) as stream:
        first: bytes = stream.read(BLOCK_BYTES)
        _check_is_text(first, source)
        encoding, start = detected(first, encoding=source.reading.encoding)
        blocks = _with_first(first[start:], stream)
        yield from _with_lf(blocks if encoding == "utf-8" else _transcoded(blocks, encoding, source))


def detected(head: bytes, *, encoding: str = AUTO) -> tuple[str, int]:
    """The encoding of a file that begins with `head`, and the length of its byte order mark, which has precedence."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return name, len(mark)
    if encoding != AUTO:
        return codecs.lookup(encoding).name, 0
    sample = np.frombuffer(head[:_DETECTION_BYTES], np.uint8)
    if len(sample) < 4:
        return "utf-8", 0
    even, odd = (float((sample[start::2] == 0).mean()) for start in (0, 1))
    if odd > 0.3 and even < 0.05:
        return "utf-16-le", 0
    return ("utf-16-be", 0) if even > 0.3 and odd < 0.05 else ("utf-8", 0)


def decode(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Bytes as text: the string array, null where it is not UTF-8, and a boolean array of where that is."""
    try:
        text = array.cast(pa.string())
        return text, pa.repeat(False, len(text))
    except pa.ArrowInvalid:
        values = [_decode(value) for value in array.to_pylist()]  # rare: only for a batch with bytes that are not UTF-8
        bad = [value is None and known for value, known in zip(values, array.is_valid().to_pylist(), strict=True)]
        return pa.array(values, pa.string()), pa.array(bad)


def escaped_text(array: pa.Array) -> pa.Array:
    r"""Bytes as text; those that are not UTF-8 are written as \xff."""
    text, is_not_utf8 = decode(array)
    if not pc.any(is_not_utf8).as_py():
        return text
    return pa.array([None if value is None else escaped(value) for value in array.to_pylist()], pa.string())


def check_utf8(rows: pa.Table, names: Iterable[str], *, source: Source) -> None:
    """Raise DataRejected for a value of these columns of a text file that is not UTF-8, unless an encoding was given.

    With a given encoding, such values are missing.
    """
    if source.format == "parquet" or source.reading.encoding != AUTO:
        return
    for name in names:
        column = rows[name]
        if not pa.types.is_binary(column.type):
            continue
        _, is_bad = decode(column.combine_chunks())
        if pc.any(is_bad).as_py():
            value = column.filter(is_bad)[0].as_py()
            raise DataRejected(
                f"{source.path}: column {name!r} has text that is not UTF-8, e.g. {escaped(value)[:80]!r}; "
                f"{encoding_remedy(value, flag=source.reading.encoding_flag)}, or to utf-8 to leave such values out"
            )


def encoding_remedy(value: bytes, *, flag: str = "--encoding") -> str:
    """What to do about text that is not UTF-8, with the encoding that it may have."""
    return f"set {flag} to the encoding of the file, which looks like {plausible_encoding(value)}"


def remedy_of_escaped(text: str, *, flag: str = "--encoding") -> str:
    r"""The same for a text in which bytes that are not UTF-8 are written as \xff; empty if it has none."""
    value = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return "" if is_utf8(value) else encoding_remedy(value, flag=flag)


def plausible_encoding(value: bytes) -> str:
    """A guess at the encoding of text that is not UTF-8, from how its bytes above 127 lie together."""
    if b"\x00" in value:
        return "utf-16"
    runs = re.findall(rb"[\x80-\xff]+", value)
    num_bytes, even = sum(map(len, runs)), [run for run in runs if len(run) % 2 == 0]
    is_in_pairs = sum(map(len, even)) > 0.8 * num_bytes
    if is_in_pairs and all(re.fullmatch(rb"([\x81-\xfe][\x80-\xfe])+", run) for run in even):
        return "gb18030"
    return "cp1251" if num_bytes >= 3 * max(len(runs), 1) else "cp1252"


def is_utf8(value: bytes) -> bool:
    """Whether bytes are UTF-8."""
    return _decode(value) is not None


def escaped(value: bytes) -> str:
    r"""Bytes as text; those that are not UTF-8 are written as \xff."""
    return value.decode("utf-8", "backslashreplace")


def _check_is_text(head: bytes, source: Source) -> None:
    kind = next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), None)
    if kind is not None:
        remedy = "set --format parquet" if kind == "a Parquet file" else "convert it to CSV or Parquet"
        raise DataRejected(f"{source.path} is {kind}, not {source.format}; {remedy}")


def _with_first(first: bytes, stream: pa.NativeFile) -> Iterator[bytes]:
    block = first
    while block:
        yield block
        block = stream.read(BLOCK_BYTES)


def _transcoded(blocks: Iterable[bytes], encoding: str, source: Source) -> Iterator[bytes]:
    # A byte that the encoding does not allow becomes a lone surrogate, and then that byte again, invalid in UTF-8 too.
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    try:
        for block in blocks:
            yield decoder.decode(block).encode("utf-8", "surrogateescape")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")
    except UnicodeError as error:
        raise DataRejected(
            f"{source.path} is not {encoding}: {error}; set {source.reading.encoding_flag} to its encoding"
        ) from None


def _with_lf(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Text whose line ends CRLF and CR are replaced by LF, within quotes too."""
    held = b""
    for block in blocks:
        text = held + block
        held = b""
        if text.endswith(b"\r"):
            text, held = text[:-1], b"\r"
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if text:
            yield text
    if held:
        yield b"\n"


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None
