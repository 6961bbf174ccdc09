"""Raw tables: any common file or folder as a stream of rows, which are not validated here."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs
import pyarrow.json
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.raw.quarantine import rows_as_json

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "sequences"]
"""`sequences` are lines of words, a table with the single column `line`."""

LINE = "line"
BLOCK_BYTES = 8 * 1024 * 1024
BATCH_ROWS = 131_072
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_CELL_BYTES = 64 * 1024

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "sequences",
}
_SPARK_FILES = ("_SUCCESS", "_metadata", "_common_metadata", "_started_", "_committed_", "_temporary")
"""How the names of the files begin that Spark writes next to a table."""
_GZIP = b"\x1f\x8b"
_DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException)


@dataclass(frozen=True)
class Source:
    """One file of raw data on any filesystem that pyarrow supports."""

    filesystem: pyarrow.fs.FileSystem
    path: str
    format: str
    num_bytes: int
    relative: str = ""
    """Path relative to the given folder; just the name of a file that was given itself."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of one file, and the lines among them that could not be parsed: reason -> original lines."""

    rows: pa.Table
    broken: Mapping[str, Sequence[str]]


def find(raw: str, *, format: Format = "auto") -> list[Source]:
    """The tables of `raw` (a file, a folder, or a URI such as s3://bucket/path), by path; raises DataRejected."""
    return [with_format(source, format=format) for source in list_files(raw)]


def with_format(source: Source, *, format: Format = "auto") -> Source:
    """The file with its format, which is told by its name; raises DataRejected."""
    return replace(source, format=_format_of(source.path, format))


def list_files(raw: str) -> list[Source]:
    """The files of `raw` (a file, a folder, or a URI such as s3://bucket/path), by path; raises DataRejected.

    Hidden files and the files that Spark writes for itself are skipped. Their formats are not determined.
    """
    try:
        filesystem, path = _filesystem(raw)
        info = filesystem.get_file_info(path)
        if info.type == pyarrow.fs.FileType.Directory:
            listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
            infos = [entry for entry in listed if entry.is_file and not _is_hidden(entry.path, below=path)]
        else:
            infos = [info] if info.is_file else []
    except (*_DAMAGE, ValueError) as error:
        raise DataRejected(f"cannot read {without_secrets(raw)}: {without_secrets(str(error))}") from None
    if not infos:
        raise DataRejected(
            f"{without_secrets(raw)} does not exist or holds no files; give a file, a folder or a URI such as s3://b/p"
        )
    infos.sort(key=lambda entry: entry.path)
    above = path if info.type == pyarrow.fs.FileType.Directory else str(PurePosixPath(path).parent)
    return [
        Source(filesystem, entry.path, "", entry.size, entry.path.removeprefix(above).lstrip("/")) for entry in infos
    ]


def read(source: Source) -> Iterator[Chunk]:
    """Stream a file in batches of bounded memory; raises DataRejected when it is damaged.

    CSV and TSV need a header line, and their values are raw bytes; only the delimiter is inferred, not types.
    """
    readers = {"csv": _read_csv, "tsv": _read_csv, "jsonl": _read_jsonl, "sequences": _read_lines}
    try:
        if source.format == "parquet":
            yield from _read_parquet(source)
        elif source.num_bytes:
            yield from readers[source.format](source)
    except _DAMAGE as error:
        raise DataRejected(
            f"cannot read {source.path} as {source.format}: {str(error).strip()}; "
            "the file is damaged, truncated or of another format (see --format); write it again"
        ) from None


@contextmanager
def opened(source: Source) -> Iterator[pa.NativeFile]:
    """The decompressed bytes of a file as a stream; gzip is detected by its first bytes."""
    with source.filesystem.open_input_stream(source.path, compression=None) as stream:
        is_gzip = stream.read(2) == _GZIP
    compression = "gzip" if is_gzip else None
    with source.filesystem.open_input_stream(source.path, compression=compression) as stream:
        yield stream


def without_secrets(text: str) -> str:
    """A text without the credentials that a URI such as s3://KEY:SECRET@bucket/path may contain."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def parse_mapping(text: str, *, names: Sequence[str] | None = None) -> dict[str, str]:
    """Our column name -> the file's, from `user_id=CustomerID,item_id=StockCode`; raises ValueError.

    With `names`, only these are allowed as our column names.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    mapping = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    wrong = [ours for ours, theirs in mapping.items() if not theirs or (names is not None and ours not in names)]
    if wrong or len(mapping) != len(pairs):
        known = f", where NAME is one of {', '.join(names)}" if names else ""
        raise ValueError(f"cannot parse the column mapping {text!r}: write NAME=COLUMN,NAME=COLUMN{known}")
    return mapping


def decode(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Bytes as text: the string array, null where it is not UTF-8, and a boolean array of where that is."""
    try:
        text = array.cast(pa.string())
        return text, pa.repeat(False, len(text))
    except pa.ArrowInvalid:
        values = [_decode(value) for value in array.to_pylist()]  # rare: only for a batch with bytes that are not UTF-8
        bad = [value is None and known for value, known in zip(values, array.is_valid().to_pylist(), strict=True)]
        return pa.array(values, pa.string()), pa.array(bad)


def _filesystem(raw: str) -> tuple[pyarrow.fs.FileSystem, str]:
    if "://" in raw:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(raw)
        return filesystem, path
    return pyarrow.fs.LocalFileSystem(), str(Path(raw).expanduser().resolve())


def _is_hidden(path: str, *, below: str) -> bool:
    return any(part.startswith((".", *_SPARK_FILES)) for part in path.removeprefix(below).split("/"))


def _format_of(path: str, format: Format) -> str:
    if format != "auto":
        return format
    name = Path(path.lower())
    found = _SUFFIXES.get(name.with_suffix("").suffix if name.suffix == ".gz" else name.suffix)
    if found is None:
        choices = ", ".join(choice for choice in get_args(Format) if choice != "auto")
        raise DataRejected(f"cannot infer the format of {path} from its name; set --format to one of {choices}")
    return found


def _read_parquet(source: Source) -> Iterator[Chunk]:
    with tempfile.TemporaryFile() as plain, source.filesystem.open_input_file(source.path) as file:
        seekable: pa.NativeFile = file
        if file.read(2) == _GZIP:  # Parquet needs seeking, which a gzip stream cannot do
            with opened(source) as stream:
                shutil.copyfileobj(stream, plain)
            seekable = pa.PythonFile(plain, mode="r")
        file.seek(0)
        for batch in pq.ParquetFile(seekable, buffer_size=BLOCK_BYTES).iter_batches(batch_size=BATCH_ROWS):
            yield Chunk(pa.Table.from_batches([batch]), {})


def _read_csv(source: Source) -> Iterator[Chunk]:
    delimiter = "\t" if source.format == "tsv" else _delimiter(source)
    names = _csv_names(source, delimiter)
    if names is None:
        return
    broken: list[str] = []
    with opened(source) as stream:
        options = pyarrow.csv.ConvertOptions(
            column_types={name: pa.binary() for name in names},
            null_values=[""],
            strings_can_be_null=True,
        )
        reader = _open_csv(stream, delimiter, broken=broken, convert_options=options)
        for batch in reader:
            lines, broken[:] = list(broken), []
            rows = pa.Table.from_batches([batch])
            _check_cells(rows, source)
            swallowed = _has_swallowed_lines(rows, delimiter)
            yield Chunk(
                rows.filter(pa.array(~swallowed)),
                {
                    **({"wrong_number_of_fields": lines} if lines else {}),
                    **({"open_quote": rows_as_json(rows.filter(pa.array(swallowed)))} if swallowed.any() else {}),
                },
            )
        if broken:
            yield Chunk(pa.table({}), {"wrong_number_of_fields": broken})


def _csv_names(source: Source, delimiter: str) -> list[str] | None:
    """The column names of the header, or None where no row follows it."""
    with opened(source) as stream:
        try:
            return _open_csv(stream, delimiter, broken=[]).schema.names
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return None
            raise


def _open_csv(
    stream: pa.NativeFile,
    delimiter: str,
    *,
    broken: list[str],
    convert_options: pyarrow.csv.ConvertOptions | None = None,
) -> pyarrow.csv.CSVStreamingReader:
    def keep(row: pyarrow.csv.InvalidRow) -> Literal["skip"]:
        broken.append(row.text)
        return "skip"

    return pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep),
        convert_options=convert_options,
    )


def _delimiter(source: Source) -> str:
    with opened(source) as stream:
        header = stream.read(64 * 1024).split(b"\n", 1)[0].decode("utf-8", "replace")
    return max(",;\t|", key=header.count)


def _check_cells(rows: pa.Table, source: Source) -> None:
    """Reject a cell that is too long: a quote before it was not closed, and it contains the lines that follow."""
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest > MAX_CELL_BYTES:
            raise DataRejected(
                f"{source.path}: a value of column {name!r} has {longest:,} bytes; a quote is never closed"
            )


def _has_swallowed_lines(rows: pa.Table, delimiter: str) -> npt.NDArray[np.bool_]:
    """Mask of the rows with a value that contains another row: the quote before it was not closed."""
    swallowed = np.zeros(rows.num_rows, bool)
    cell = f"[^{delimiter}\n]*"
    for column in rows.columns if rows.num_columns > 2 else []:
        if pc.any(pc.match_substring(column, "\n")).as_py():
            like_a_row = rf"\n({cell}[{delimiter}]){{{rows.num_columns - 1}}}{cell}(\n|$)"
            found = pc.fill_null(pc.match_substring_regex(column, like_a_row), False)
            swallowed |= found.to_numpy()
    return swallowed


def _read_lines(source: Source) -> Iterator[Chunk]:
    for lines in _lines(source):
        text, is_not_utf8 = decode(lines)
        bad = [value.decode("utf-8", "backslashreplace") for value in lines.filter(is_not_utf8).to_pylist()]
        good = text.filter(pc.invert(is_not_utf8))
        yield Chunk(pa.table({LINE: good}), {"not_utf8": bad} if bad else {})


def _read_jsonl(source: Source) -> Iterator[Chunk]:
    schema: pa.Schema | None = None
    for lines in _lines(source):
        block = pa.py_buffer(b"\n".join(lines.to_pylist()) + b"\n")
        try:
            rows = _parse_json(block, schema)
        except pa.ArrowInvalid:
            yield _parse_json_by_line(lines.to_pylist())
            continue
        schema = rows.schema
        yield _parse_json_by_line(lines.to_pylist()) if _has_huge_numbers(rows) else Chunk(rows, {})


def _parse_json(block: pa.Buffer, schema: pa.Schema | None) -> pa.Table:
    if schema is not None:
        try:
            return _json_table(block, schema)
        except pa.ArrowInvalid:
            pass  # a column changed its type; the block itself may still be consistent
    rows = _json_table(block, None)
    # Ids that look like dates were inferred as times.
    if any(pa.types.is_timestamp(column.type) for column in rows.schema):
        kept = [pa.field(c.name, pa.string() if pa.types.is_timestamp(c.type) else c.type) for c in rows.schema]
        rows = _json_table(block, pa.schema(kept))
    return rows


def _json_table(block: pa.Buffer, schema: pa.Schema | None) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(block_size=max(block.size, 1)),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer"),
    )


def _has_huge_numbers(rows: pa.Table) -> bool:
    """Whether integers beyond 64 bits were converted to floats, which are not exact: an id would change."""
    floats = [column for column in rows.columns if pa.types.is_floating(column.type)]
    return any((pc.max(pc.abs(column)).as_py() or 0) >= 2**53 for column in floats)


def _parse_json_by_line(lines: list[bytes]) -> Chunk:
    """Slow path for a block with a broken line, a column of mixed types or huge numbers: values become text."""
    rows: list[dict[str, str | None]] = []
    broken: list[str] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append({name: _json_text(value) for name, value in row.items()})
        else:
            broken.append(line.decode("utf-8", "backslashreplace"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    return Chunk(pa.table(columns), {"broken_json": broken} if broken else {})


def _json_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(source: Source) -> Iterator[pa.Array]:
    """The non-blank lines of a file as binary arrays, about BLOCK_BYTES at a time."""
    rest = b""
    with opened(source) as stream:
        while block := stream.read(BLOCK_BYTES):
            head, newline, tail = block.rpartition(b"\n")
            if newline:
                yield _split_lines(rest + head)
                rest = tail
            else:
                rest += tail
            if len(rest) > MAX_LINE_BYTES:
                raise DataRejected(
                    f"{source.path} has a line of more than {MAX_LINE_BYTES:,} bytes; is it another format?"
                )
    if rest:
        yield _split_lines(rest)


def _split_lines(block: bytes) -> pa.Array:
    block = block.removeprefix(b"\xef\xbb\xbf")
    lines = pc.split_pattern(pa.array([block], pa.binary()), b"\n").values
    blank = pc.match_substring_regex(lines, r"^\s*$")
    return lines.filter(pc.invert(blank))


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None
