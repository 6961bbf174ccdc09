"""Reads JSON: lines, a large array, or objects over several lines, each as rows in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from models.raw.chunks import Chunk, with_fields
from models.raw.encodings import escaped, is_utf8, text_blocks
from models.raw.files import Source
from models.raw.lines import lines_of

_SAMPLE_BYTES = 64 * 1024
_STRUCTURE = np.isin(np.arange(256), list(b'"{}[],\n'))
_MAX_EXACT = 2**53


def read_json(source: Source) -> Iterator[Chunk]:
    """The objects of a JSON file as rows; fields of nested objects become columns `outer.inner`."""
    schema: pa.Schema | None = None
    for lines in lines_of(_as_lines(text_blocks(source)), source):
        text = b"\n".join(lines.to_pylist()) + b"\n"
        try:
            rows = _parse(pa.py_buffer(text), schema) if text.isascii() or is_utf8(text) else None
        except pa.ArrowInvalid:
            rows = None
        if rows is None:
            yield _parse_by_line(lines.to_pylist())
            continue
        schema = rows.schema
        rows = with_fields(rows)
        yield _parse_by_line(lines.to_pylist()) if _has_huge_numbers(rows) else Chunk(rows, {})


def _as_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The text with one object on each line."""
    first = b""
    for block in blocks:
        first += block
        if len(first.lstrip()) >= _SAMPLE_BYTES:
            break
    depth = _depth_of_rows(first.lstrip())
    blocks = chain((first,), blocks)
    return blocks if depth is None else _rearranged(blocks, depth)


def _depth_of_rows(sample: bytes) -> int | None:
    """How deep the rows lie: 1 in an array, 0 for objects over several lines, None for JSON lines."""
    if sample.startswith(b"["):
        return 1
    lines = [line.strip() for line in sample.split(b"\n", 10)[:10] if line.strip()]
    is_spread = len(lines) > 1 and lines[0].startswith(b"{") and not lines[0].endswith(b"}")
    return 0 if is_spread and lines[1].startswith((b'"', b"}")) else None


def _rearranged(blocks: Iterable[bytes], depth_of_rows: int) -> Iterator[bytes]:
    """JSON with a line end after each row, and none within.

    Rows lie at a depth of brackets; a bracket within a string does not count. All characters keep their positions.
    """
    held, depth, in_string = b"", 0, 0
    for block in blocks:
        text = held + block
        # Escaped characters, such as quotes, have no meaning here.
        masked = re.sub(rb"\\.", b"__", text, flags=re.DOTALL)
        held = b"\\" if masked.endswith(b"\\") else b""
        characters = np.frombuffer(masked, np.uint8)
        place = np.flatnonzero(_STRUCTURE[characters])
        kind = characters[place]
        states = np.cumsum(kind == ord('"')) + in_string
        is_free = states % 2 == 0
        steps = np.where(is_free & np.isin(kind, list(b"{[")), 1, 0) - np.where(
            is_free & np.isin(kind, list(b"}]")), 1, 0
        )
        depths = np.cumsum(steps) + depth
        out = np.frombuffer(text, np.uint8).copy()
        out[place[is_free & (kind == ord("\n")) & (depths > 0)]] = ord(" ")
        if depth_of_rows == 1:
            out[place[is_free & (kind == ord(",")) & (depths == 1)]] = ord("\n")
            is_bracket = ((kind == ord("[")) & (depths == 1)) | ((kind == ord("]")) & (depths == 0))
            out[place[is_free & is_bracket]] = ord("\n")
        yield out[: len(out) - len(held)].tobytes()
        if len(place):
            depth, in_string = int(depths[-1]), int(states[-1] % 2)
    yield held


def _parse(block: pa.Buffer, schema: pa.Schema | None) -> pa.Table:
    if schema is not None:
        try:
            return _json_table(block, schema)
        except pa.ArrowInvalid:
            pass  # a column changed its type; the block itself may still be consistent
    rows = _json_table(block, None)
    # Ids that look like dates were inferred as times.
    kept = [pa.field(column.name, _without_times(column.type)) for column in rows.schema]
    return rows if pa.schema(kept) == rows.schema else _json_table(block, pa.schema(kept))


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if isinstance(kind, pa.StructType):
        return pa.struct([pa.field(inner.name, _without_times(inner.type)) for inner in kind])
    return pa.list_(_without_times(kind.value_type)) if isinstance(kind, pa.ListType) else kind


def _json_table(block: pa.Buffer, schema: pa.Schema | None) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(block_size=max(block.size, 1)),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
    )


def _has_huge_numbers(rows: pa.Table) -> bool:
    """Whether integers beyond 64 bits were converted to floats, which are not exact: an id would change."""
    floats = [column for column in rows.columns if pa.types.is_floating(column.type)]
    return any((pc.max(pc.abs(column)).as_py() or 0) >= _MAX_EXACT for column in floats)


def _parse_by_line(lines: list[bytes]) -> Chunk:
    """Slow path for a block with a broken line, a column of mixed types, huge numbers or text that is not UTF-8.

    Values become text; bytes where a value of the column is not UTF-8 or has half a surrogate pair.
    """
    objects: list[dict[str, object]] = []
    broken: list[str] = []
    for line in lines:
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            objects.append(row)
        else:
            broken.append(escaped(line))
    rows = [_flat(row) for row in objects]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {escaped(_encoded(name)): _column([row.get(name) for row in rows]) for name in names}
    return Chunk(pa.table(columns), {"broken_json": broken} if broken else {})


def _flat(row: dict[str, object], prefix: str = "") -> dict[str, object]:
    """The values of an object and, as `outer.inner`, those of the objects in it, as `with_fields` has them."""
    found: dict[str, object] = {}
    for name, value in row.items():
        found[prefix + name] = value
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
    return found


def _column(values: list[object]) -> pa.Array:
    """Values as text; objects as they are and lists as lists of text, if there is nothing else."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, dict) for value in known):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # a field of several types, or a huge number
            pass
    if known and all(isinstance(value, list) for value in known):
        lists = [[_shown(part) for part in value] if isinstance(value, list) else None for value in values]
        return pa.array(lists, pa.list_(pa.string()))
    texts = [_text(value) for value in values]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if text is None else _encoded(text) for text in texts], pa.binary())


def _shown(value: object) -> str | None:
    text = _text(value)
    return None if text is None else escaped(_encoded(text))


def _encoded(text: str) -> bytes:
    """Text as UTF-8; bytes that were not are as before, and half a surrogate pair is not UTF-8 either."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
