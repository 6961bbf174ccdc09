"""The output of batch prediction: a row per request or per answer of its list, as Parquet, CSV or JSON lines."""

from __future__ import annotations

import base64
import json
import math
import shutil
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import BaseModel

from jobs.cli.context import UsageFailure
from jobs.prediction.answer_table import answer_schema
from models.raw.formats import TABLE_SUFFIXES

Layout = Literal["auto", "nested", "long"]
Format = Literal["parquet", "csv", "jsonl", "directory"]
RANK = "rank"
"""Column of the long layout: place in the list, from 1."""
FORMATS: Mapping[str, Format] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", "": "directory"}


@dataclass(frozen=True)
class Shape:
    """How answers are written."""

    format: Format
    lists: tuple[str, ...]
    """Fields of the response, from the outermost to the innermost, whose elements become rows; none if it is nested."""
    answers: tuple[str, ...]
    """All columns of a nested answer; in the long layout those of the elements come before them."""


def shape_of(output: Path, layout: Layout, response: type[BaseModel]) -> Shape:
    """The shape for the suffix of the output and --layout; raises UsageFailure if they do not fit the response."""
    suffix = output.suffix.lower()
    if suffix in TABLE_SUFFIXES and suffix not in FORMATS:
        raise UsageFailure(f"--output {output}: {suffix} is not written; use .parquet, .csv, .jsonl or a directory")
    format, lists = FORMATS.get(suffix, "directory"), lists_of(response)
    if layout == "long" and not lists:
        raise UsageFailure("--layout long: the answer of this family has no list whose elements could be rows; omit it")
    if layout == "nested" and format == "csv" and lists:
        raise UsageFailure(
            f"--layout nested: a CSV file has no lists; use --layout long, or an output other than {output}"
        )
    is_long = layout == "long" or (layout == "auto" and format == "csv")
    return Shape(format, lists if is_long else (), tuple(answer_schema(response).names))


def lists_of(response: type[BaseModel]) -> tuple[str, ...]:
    """The path to the innermost list of a response: its only field that is a list of objects, and so on in these."""
    found = {name: element for name, field in response.model_fields.items() if (element := _element(field.annotation))}
    if len(found) != 1:
        return ()
    ((name, element),) = found.items()
    return (name, *lists_of(element))


def output_names(response: type[BaseModel], shape: Shape) -> list[str]:
    """The columns that the answers add to a table."""
    return list(exploded(answer_schema(response).empty_table(), shape).column_names)


def exploded(table: pa.Table, shape: Shape) -> pa.Table:
    """One row for each element of a list, in order, with its fields as columns and, for the innermost list, its rank.

    A field is named `list_field` if there is such a column already. A row without elements stays, with nulls.
    """
    for depth, name in enumerate(shape.lists):
        column = table[name].combine_chunks()
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        repeats = np.maximum(lengths, 1)
        rows = np.repeat(np.arange(len(lengths)), repeats)
        ranks = np.arange(len(rows)) - (np.cumsum(repeats) - repeats)[rows] + 1
        is_empty = lengths[rows] == 0
        places = (np.cumsum(lengths) - lengths)[rows] + ranks - 1
        elements = pc.list_flatten(column).take(pa.array(places, pa.int64(), mask=is_empty))
        assert isinstance(elements.type, pa.StructType)
        fields = {field.name: pc.struct_field(elements, field.name) for field in elements.type}
        if depth == len(shape.lists) - 1:
            fields = {RANK: pa.array(ranks, pa.int64(), mask=is_empty), **fields}
        others = table.drop_columns([name]).take(rows)
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        for kept in table.column_names:
            if kept == name:
                columns |= {
                    f"{name}_{field}" if field in others.column_names else field: fields[field] for field in fields
                }
            else:
                columns[kept] = others[kept]
        table = pa.table(columns)
    return table.select(sorted(table.column_names, key=shape.answers.__contains__)) if shape.lists else table


def write_tables(tables: Iterable[pa.Table], path: Path, shape: Shape, *, metadata: Mapping[bytes, bytes]) -> None:
    """Write tables of one schema to one file; only Parquet keeps the metadata."""
    shaped = (exploded(table, shape) for table in tables)
    if shape.format == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            for table in shaped:
                file.writelines(f"{line}\n" for line in _json_lines(table))
        return
    with ExitStack() as opened:
        writer: Any = None
        for table in shaped:
            table = _flat(table) if shape.format == "csv" else table.replace_schema_metadata(metadata)
            if writer is None:
                make = pyarrow.csv.CSVWriter if shape.format == "csv" else pq.ParquetWriter
                writer = opened.enter_context(make(path, table.schema))
            writer.write_table(table)


def write_directory(files: Sequence[Path], directory: Path, shape: Shape) -> None:
    """Write each file in its long form under the same name to a new directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in files:
        pq.write_table(exploded(pq.read_table(file), shape), directory / file.name)


def _element(annotation: Any) -> type[BaseModel] | None:
    """The class of the elements of a list of objects."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) not in (list, tuple, Sequence) or not arguments:
        return None
    is_model = isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel)
    return arguments[0] if is_model else None


def _flat(table: pa.Table) -> pa.Table:
    """A table that CSV can hold: nested values as JSON, bytes in base64, times as text."""
    columns: list[pa.Array | pa.ChunkedArray] = []
    for column in table.columns:
        kind = column.type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            values = (None if value is None else _text(value) for value in column.to_pylist())
            columns.append(pa.array(list(values), pa.string()))
        else:
            is_plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind == pa.bool_()
            columns.append(column if is_plain else column.cast(pa.string()))
    return pa.table(columns, names=table.column_names)


def _json_lines(table: pa.Table) -> Iterator[str]:
    for row in table.to_pylist():
        yield json.dumps(_plain(row), ensure_ascii=False)


def _text(value: Any) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value for JSON: bytes in base64, NaN and infinity as null, others as their text."""
    match value:
        case dict():
            return {str(name): _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case _:
            return str(value)
