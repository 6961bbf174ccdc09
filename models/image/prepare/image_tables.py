"""Tables of images: which columns are read, and how the cells name image files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.image.prepare.folders import Subfolders
from models.image.prepare.labels import check_is_scalar, read_texts, shown
from models.image.prepare.sources import Columns, Table, groups_by_size, named_file
from models.image.prepare.split_names import split_folders
from models.raw.chunks import with_fields
from models.raw.tables import Source, opened, read, with_partition

COLUMNS = ("image", "item_id", "split", "title")
MAX_SNIFFED_BYTES = 1024 * 1024
_LONG_BASE64 = re.compile(rb"[A-Za-z0-9+/=]{65536}")


@dataclass(frozen=True)
class Wanted:
    """The columns and labels to read."""

    heads: Mapping[str, str]
    """Label head -> the table's column."""
    columns: Mapping[str, str]
    """Name in COLUMNS -> the table's column."""
    class_names: tuple[str, ...] = ()
    """Class names for numeric labels."""
    elsewhere: frozenset[str] = frozenset()
    """Heads that the table may lack, because the item table has them."""
    item_ids: frozenset[str] = frozenset()
    """Item ids of the item table."""
    subfolders: Subfolders = "auto"


@dataclass
class TableOfFiles:
    """A table next to the image files that it names."""

    parts: list[Table]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def parts_of_tables(tables: Sequence[Source], wanted: Wanted) -> TableOfFiles:
    """The parts of tables that hold images or paths; their file or folder names may name splits."""
    splits = splits_of_tables(tables)
    found = TableOfFiles([], notes=_split_notes(tables, splits))
    for table in tables:
        found.parts += parts_of_table(table, wanted, found.notes, split=splits.get(table.path, ""))
    return found


def splits_of_tables(tables: Sequence[Source]) -> dict[str, str]:
    """Path -> split of tables such as train.csv and test-00000-of-00001.parquet, or train/a.csv and test/a.csv."""
    for names in (
        [PurePosixPath(table.path).name.partition(".")[0] for table in tables],
        [PurePosixPath(table.relative).parts[0] for table in tables],
    ):
        splits = split_folders(set(names))
        if len(set(splits.values())) > 1 and splits.keys() == set(names):
            return {table.path: splits[name] for table, name in zip(tables, names, strict=True)}
    return {}


def _split_notes(tables: Sequence[Source], splits: Mapping[str, str]) -> list[str]:
    if not splits:
        return []
    named = {splits[table.path]: table.relative for table in tables[::-1]}
    return ["the tables are splits by their names: " + ", ".join(f"{path} is {split}" for split, path in named.items())]


def parts_of_table(
    source: Source, wanted: Wanted, notes: list[str], *, files: Mapping[str, str] | None = None, split: str = ""
) -> list[Table]:
    """One part for each table; a large Parquet file is split by row groups. Adds what was inferred to the notes."""
    files = files or {}
    if source.format != "parquet":
        _check_no_base64(source)
        chunk = next(read(source), None)
        schema = pa.schema([]) if chunk is None else chunk.rows.schema
        notes += [f"{source.relative}: {note}" for note in ([] if chunk is None else chunk.notes)]
        return [Table(source, _columns(schema, wanted, source), files=files, split=split)]
    schema, metadata = _parquet(source)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = _columns(schema, wanted, source)
    before = [0]
    for group in groups:
        before.append(before[-1] + group.num_rows)
    numbers = groups_by_size(range(len(groups)), [group.total_byte_size for group in groups])
    return [Table(source, columns, tuple(some), before[some[0]], files, split) for some in numbers]


def _parquet(source: Source) -> tuple[pa.Schema, Any]:
    """The columns of a Parquet file, with those of its nested columns and folders, and its metadata."""
    try:
        with source.filesystem.open_input_file(source.path) as file:
            parquet = pq.ParquetFile(file)
            rows = with_partition(with_fields(parquet.schema_arrow.empty_table()), source)
            return rows.schema, parquet.metadata
    except (pa.ArrowException, OSError) as error:
        raise DataRejected(f"cannot read {source.path} as Parquet: {error}; write the file again") from None


def column_names(source: Source) -> list[str]:
    """The columns of a table; raises DataRejected if it cannot be read."""
    if source.format == "parquet":
        return list(_parquet(source)[0].names)
    chunk = next(read(source), None)
    return [] if chunk is None else list(chunk.rows.column_names)


def has_wanted(source: Source, wanted: Wanted) -> bool:
    """Whether a table has label columns that were asked for and the other columns that were named."""
    try:
        names = set(column_names(source))
    except DataRejected:  # it may have nothing to do with the images
        return False
    needed = [theirs for ours, theirs in wanted.heads.items() if ours not in wanted.elsewhere]
    needed += wanted.columns.values()
    return bool(needed) and names.issuperset(needed)


def table_of_files(
    fitting: Sequence[Source], tables: Sequence[Source], images: Sequence[Source], wanted: Wanted
) -> TableOfFiles:
    """The tables that have the labels of the image files next to them; raises DataRejected if none has."""
    if not fitting:
        return parts_of_tables(tables[:1], wanted)  # it says why
    splits = splits_of_tables(fitting)
    found = TableOfFiles([], notes=_split_notes(fitting, splits))
    named: set[str] = set()
    for table in fitting:
        files = _index(images, PurePosixPath(table.path).parent)
        column = wanted.columns.get("image") or _image_column(table, files)
        named |= {file for value in _values(table, column) if (file := named_file(value, files)) is not None}
        own = Wanted(wanted.heads, {**wanted.columns, "image": column}, elsewhere=wanted.elsewhere)
        found.parts += parts_of_table(table, own, found.notes, files=files, split=splits.get(table.path, ""))
        found.notes.append(f"labels from {table.relative}; its column {column!r} names the image files")
    rest = [image for image in images if image.path not in named]
    if rest:
        found.left_out["images that no row names"] = len(rest)
        found.notes.append(f"{len(rest):,} image files that no row names are left out, e.g. {shown(rest[0].relative)}")
    return found


def _index(images: Sequence[Source], folder: PurePosixPath) -> dict[str, str]:
    """Path from a folder or the root, name, or name without suffix -> path of the only file that it can mean."""
    paths: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    for image in images:
        path = PurePosixPath(image.path)
        paths.setdefault(image.relative, image.path)
        if path.is_relative_to(folder):
            paths[str(path.relative_to(folder))] = image.path
        for name in (path.name, path.stem):
            names.setdefault(name, set()).add(image.path)
    return {**{name: next(iter(of)) for name, of in names.items() if len(of) == 1}, **paths}


def _image_column(table: Source, files: Mapping[str, str]) -> str:
    """The column that names the image files; raises DataRejected if none or several do."""
    names = column_names(table)
    if "image" in names:
        return "image"
    matches: Counter[str] = Counter()
    total = 0
    for rows in _chunks(table, limit=1):
        total += rows.num_rows
        for name in names:
            if not pa.types.is_nested(rows.schema.field(name).type):
                matches[name] += sum(
                    named_file(value, files) is not None for value in read_texts(rows, name).values if value
                )
    best = matches.most_common(2)
    if best and 2 * best[0][1] > total and (len(best) < 2 or best[1][1] < best[0][1]):
        return best[0][0]
    raise DataRejected(
        f"no single column of {table.path} names the image files next to it; its columns are: {', '.join(names)}. "
        "Name it, e.g. --columns image=filename"
    )


def _values(table: Source, column: str) -> Iterator[str]:
    """The image files that a table names, as keys of the index."""
    for rows in _chunks(table):
        for value in read_texts(rows, column).values:
            if value is not None:
                yield value


def _chunks(table: Source, *, limit: int | None = None) -> Iterator[pa.Table]:
    for number, chunk in enumerate(read(table)):
        if number == limit:
            return
        yield chunk.rows


def _columns(schema: pa.Schema, wanted: Wanted, source: Source) -> Columns:
    """The columns to read from a table; raises DataRejected listing the available ones if one is missing."""
    present = list(schema.names)
    names = {ours: wanted.columns.get(ours, ours) for ours in COLUMNS if ours in wanted.columns or ours in present}
    heads = {ours: theirs for ours, theirs in wanted.heads.items() if theirs in present or ours not in wanted.elsewhere}
    listed = ", ".join(present) or "none"
    missing = [theirs for theirs in (*names.values(), *heads.values()) if theirs not in present]
    if "image" not in names:
        missing.insert(0, "image")
    if missing:
        raise DataRejected(
            f"{source.path} has no column {missing[0]!r}; its columns are: {listed}. "
            "Name them, e.g. --columns image=photo,item_id=sku --labels category,colour"
        )
    if not wanted.heads:
        taken = set(names.values())
        others = [
            each.name
            for each in schema
            if not pa.types.is_nested(each.type) and taken.isdisjoint((each.name, each.name.partition(".")[0]))
        ]
        example = others[-1] if others else "type"
        raise DataRejected(f"name the label columns of {source.path}, e.g. --labels {example}; it has {listed}")
    for name in (*heads.values(), *(names[ours] for ours in names if ours != "image")):
        check_is_scalar(schema.field(name), path=source.path)
    return Columns(names, heads)


def _check_no_base64(source: Source) -> None:
    """Reject a text table with a cell of base64 text of 64 KiB or more."""
    with opened(source) as stream:
        start = stream.read(MAX_SNIFFED_BYTES)
    found = _LONG_BASE64.search(start)
    if found is not None:
        raise DataRejected(
            f"{source.path} holds images as base64 text ({shown(found.group()[:40])}...), which is not read; save them "
            "as files and name their paths, or as bytes in a Parquet column"
        )
