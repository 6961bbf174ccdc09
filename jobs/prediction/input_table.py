"""The input of batch prediction: any table that `prepare` reads, as Parquet, and which of its columns are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from jobs.cli.context import UsageFailure, log
from jobs.prediction.parts import ROWS_PER_PART, Part, plan_files, plan_parts
from models.errors import DataRejected
from models.family import Family, RawBody
from models.files import replace_file
from models.raw.chunks import with_fields
from models.raw.encodings import escaped_text
from models.raw.formats import TABLE_SUFFIXES
from models.raw.ids import as_text
from models.raw.reading import Reading
from models.raw.tables import Chunk, Source, find, parse_mapping, read

STAGED = "_input.parquet"
"""File in the working directory: the rows of an input that is not Parquet."""
UNREADABLE = "_unreadable"
"""Its column with the lines that are not rows; null for rows."""
MAX_SHOWN_CHARACTERS = 200
BLOCK_BYTES = 1 << 20
NULL = pa.nulls(0).type


@dataclass(frozen=True)
class Input:
    """The tables of the input, or its folder of files."""

    sources: tuple[Source, ...]
    folder: Path
    """The folder of the files, or that of the first table, to which paths in a table are relative."""
    files: tuple[str, ...] = ()
    """For a folder of files: their paths relative to it."""
    raw: RawBody | None = None
    """How a file becomes a request."""

    def digests(self) -> list[str]:
        """What identifies the input: the sha256 of each file."""
        if self.raw is not None:
            return [_digest_of_file(self.folder / name) for name in self.files]
        return [_digest(source) for source in self.sources]

    def parts(self, directory: Path) -> list[Part]:
        """The parts; tables other than plain local Parquet are first written to the working directory, once."""
        if self.raw is not None:
            return plan_files(self.folder, self.files, self.raw)
        if _is_plain(self.sources):
            return plan_parts([Path(source.path) for source in self.sources])
        staged = directory / STAGED
        if not staged.is_file():
            _stage(self.sources, staged)
        return plan_parts([staged])

    def column_names(self) -> list[str]:
        """The columns of the first table; raises DataRejected if a table has none or two of one name."""
        for source in self.sources:
            if names := _names(source):
                return names
        raise DataRejected(f"{self.sources[0].path} has no rows and no columns; write the table again")

    def own_columns(self) -> list[str]:
        """The columns without the fields `a.b` of a nested column a, which has them."""
        names = self.column_names()
        if not any("." in name for name in names):
            return names
        chunk = next((chunk.rows for chunk in read(self.sources[0]) if chunk.rows.num_columns), None)
        nested = () if chunk is None else [each.name for each in chunk.schema if pa.types.is_nested(each.type)]
        return [name for name in names if not any(name.startswith(f"{outer}.") for outer in nested)]

    def first_value(self, column: str) -> Any:
        """The first value of a column that is not null, or None."""
        for chunk in read(self.sources[0]):
            if column in chunk.rows.column_names and len(values := chunk.rows[column].combine_chunks().drop_null()):
                return values[0].as_py()
        return None


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read and copied."""

    fields: Mapping[str, str]
    """Field of the request -> column."""
    copied: tuple[str, ...]
    """Columns of the output that are those of the input."""
    paths_from: Path | None = None
    """If given, the column of a request that is a file has the paths of files, relative to this folder."""


def find_input(family: Family, path: str, *, reading: Reading) -> Input:
    """The tables at a path or URI, or the files of a folder for a family whose request is a file."""
    raw, folder = family.endpoints[0].raw, Path(path).expanduser()
    if raw is not None and reading.format == "auto" and folder.is_dir() and not any(folder.glob("*.parquet")):
        found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in found]
        names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
        files = [name for name in names if Path(name).suffix.lower() not in TABLE_SUFFIXES]
        if files:
            if len(files) < len(names):
                log.info(
                    "%d tables of %s are left out: its other files are the requests", len(names) - len(files), path
                )
            return Input((), folder.absolute(), tuple(files), raw)
    if "://" not in path and not (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
        raise UsageFailure(
            f"--input {path} does not exist or is empty; name a table, a folder or a URI such as s3://b/p"
        )
    sources = tuple(find(path, reading))
    return Input(sources, Path(sources[0].path).parent)


def find_columns(family: Family, given: Input, *, mapping: str, keys: Sequence[str], output: Sequence[str]) -> Columns:
    """The columns to use; raises UsageFailure if they do not fit a request or have the names of output columns."""
    endpoint = family.endpoints[0]
    known = sorted(endpoint.Request.model_fields)
    if given.raw is not None:
        return Columns({given.raw.field: given.raw.field}, ("file",))
    names, source = given.column_names(), given.sources[0].path
    try:
        mapped = parse_mapping(mapping, names=known)
    except ValueError as error:
        raise UsageFailure(f"--columns: {error}") from None
    missing = [name for name in [*mapped.values(), *keys] if name not in names]
    if missing:
        raise UsageFailure(f"{source} has no column {missing[0]!r}; its columns are {', '.join(names)}")
    fields = {**{name: name for name in names if name in known}, **mapped}
    if not fields:
        raise UsageFailure(
            f"no column of {source} ({', '.join(names)}) is a field of a request: {', '.join(known)}; "
            f"name one, such as --columns {next(iter(endpoint.Request.model_fields))}={names[0]}"
        )
    paths_from = None
    copied = list(dict.fromkeys(keys)) or given.own_columns()
    if endpoint.raw is not None and (column := fields.get(endpoint.raw.field)) is not None:
        paths_from = _folder_of_paths(given, column)
        if paths_from is None:  # otherwise the output would contain all the files
            copied = [name for name in copied if name != column]
    clashing = sorted(set(copied) & set(output))
    if clashing:
        raise UsageFailure(
            f"the column {clashing[0]!r} of {source} has the name of an output column; rename it, "
            "or name the columns to copy with --keys"
        )
    if others := [name for name in copied if name not in fields.values()]:
        log.info("columns copied to the output: %s", ", ".join(others))
    return Columns(fields, tuple(copied), paths_from)


def _folder_of_paths(given: Input, column: str) -> Path | None:
    value = given.first_value(column)
    if isinstance(value, bytes) and given.sources[0].format != "parquet":
        value = value.decode("utf-8", "replace")
    # Base64 has no dots, and a file without a suffix is rare.
    return given.folder if isinstance(value, str) and "." in value else None


def _names(source: Source) -> list[str]:
    """The column names of a source; none if it has no rows and no columns."""
    try:
        if source.format == "parquet" and _is_local(source):
            names = with_fields(pq.read_schema(Path(source.path)).empty_table()).column_names
        else:
            names = next((chunk.rows.column_names for chunk in read(source) if chunk.rows.num_columns), [])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRejected(f"{source.path} is not a readable Parquet file: {error}; write it again") from None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataRejected(f"{source.path} has two columns named {twice[0]!r}; rename one")
    if source.format == "sequences":
        raise DataRejected(f"{source.path} is read as sequences, which have no columns; set --format csv")
    return names


def _is_plain(sources: Sequence[Source]) -> bool:
    """Whether the sources are local Parquet files of one schema without nested fields, which are read in place."""
    if not all(source.format == "parquet" and _is_local(source) and "=" not in source.relative for source in sources):
        return False
    try:
        schemas = [pq.read_schema(Path(source.path)) for source in sources]
    except (pa.ArrowInvalid, OSError):  # compressed, say
        return False
    is_flat = not any(pa.types.is_struct(kind) for kind in schemas[0].types)
    return is_flat and all(schema.equals(schemas[0]) for schema in schemas)


def _is_local(source: Source) -> bool:
    return isinstance(source.filesystem, pyarrow.fs.LocalFileSystem)


def _stage(sources: Sequence[Source], path: Path) -> None:
    """Write the rows of all sources to a Parquet file, with one type for each column."""
    types: dict[str, pa.DataType] = {}
    for source in sources:
        for chunk in read(source):
            for name, column in zip(chunk.rows.column_names, chunk.rows.columns, strict=True):
                kind = _plain(column.type)
                if pa.types.is_binary(kind) and source.format != "parquet":
                    kind = pa.string()
                types[name] = _common_type(kind, types.get(name, NULL))
    fields = [(name, pa.string() if kind == NULL else kind) for name, kind in types.items()]
    schema = pa.schema([*fields, (UNREADABLE, pa.string())])
    with replace_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for source in sources:
            for chunk in read(source):
                writer.write_table(_rows(chunk, schema), row_group_size=ROWS_PER_PART)


def _rows(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """The rows of a chunk, then a row for each of its unreadable lines."""
    rows, names = chunk.rows, chunk.rows.column_names
    columns = [
        _as(rows[each.name], each.type) if each.name in names else pa.nulls(rows.num_rows, each.type) for each in schema
    ]
    lines = [f"{reason}: {line[:MAX_SHOWN_CHARACTERS]!r}" for reason, found in chunk.broken.items() for line in found]
    nulls = [pa.nulls(len(lines), each.type) for each in schema][:-1]
    broken = pa.table([*nulls, pa.array(lines, pa.string())], schema=schema)
    return pa.concat_tables([pa.table(columns, schema=schema), broken])


def _common_type(kind: pa.DataType, known: pa.DataType) -> pa.DataType:
    """The type of a column that has two in different chunks: text, unless one is unknown, as all values are null."""
    if NULL in (kind, known):
        return known if kind == NULL else kind
    return kind if kind == known else pa.string()


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a column in Parquet, which has no objects without fields: these are text of JSON."""
    if isinstance(kind, pa.DictionaryType):
        return _plain(kind.value_type)
    return pa.string() if _has_no_fields(kind) else kind


def _has_no_fields(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.ListType):
        return _has_no_fields(kind.value_type)
    fields = list(kind) if isinstance(kind, pa.StructType) else None
    return fields is not None and (not fields or any(_has_no_fields(field.type) for field in fields))


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column in the type of the staged table: text where the types of chunks differ."""
    array = column.combine_chunks()
    array = array.cast(array.type.value_type) if isinstance(array.type, pa.DictionaryType) else array
    if array.type == kind:
        return array
    if kind != pa.string() or array.type == NULL:
        return array.cast(kind)
    if pa.types.is_nested(array.type):
        return pa.array(
            [None if value is None else json.dumps(value, default=str) for value in array.to_pylist()], kind
        )
    if pa.types.is_binary(array.type):
        return escaped_text(array)
    return as_text(array)[0]


def _digest(source: Source) -> str:
    digest = hashlib.sha256()
    with source.filesystem.open_input_stream(source.path, compression=None) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return f"{source.relative} {source.format} {digest.hexdigest()}"


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}"
