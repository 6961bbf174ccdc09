"""The layouts in which a shop has its pictures, each read as a stream of entries; nothing is decoded or judged here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.image.codec import MAX_BYTES, Pixels
from models.image.prepare.public_formats import MAX_BATCH_BYTES, read_cifar, read_idx
from models.raw.tables import Source, decode, opened, read

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
}
ROWS_PER_BATCH = 64
"""Rows of a table in memory at once; each may hold a picture of MAX_BYTES."""

_MISSING_WORDS = {"", "null", "none", "nan", "n/a", "na", "undefined"}


@dataclass(frozen=True)
class Entry:
    """One picture as it was found."""

    picture: bytes | Pixels | None
    """Encoded, or pixels [height, width] or [height, width, 3]; None where there is a problem."""
    labels: Mapping[str, str | None]
    source: str
    """File that it is from."""
    row: int = 0
    """Place in the file, from 0."""
    item_id: str | None = None
    split: str = ""
    """train, val or test where the input says so."""
    title: str | None = None
    """What the shop calls the product."""
    problem: str | None = None
    """Why there is no picture, as one word."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read."""

    names: Mapping[str, str]
    """image, item_id, split, title -> the table's name; those that the table lacks are left out."""
    heads: Mapping[str, str]
    """Label head -> the table's name; heads that the table lacks are left out."""


@dataclass(frozen=True)
class Folder:
    """Some picture files of a folder per class: [split/]class/[product/]file."""

    sources: tuple[Source, ...]
    head: str
    has_splits: bool

    def entries(self) -> Iterator[Entry]:
        """The files, in order."""
        for source in self.sources:
            parts = PurePosixPath(source.relative).parts[:-1]
            split = SPLIT_NAMES[parts[0].lower()] if self.has_splits else ""
            parts = parts[int(self.has_splits) :]
            labels = {self.head: parts[0] if parts else None}
            item_id = "/".join(parts[1:]) or None
            entry = Entry(None, labels, source.path, item_id=item_id, split=split)
            yield _with_file(entry, source) if parts else replace(entry, problem="missing_class")


@dataclass(frozen=True)
class Table:
    """Some rows of a table with a picture, or the path of one, in each row."""

    source: Source
    columns: Columns
    row_groups: tuple[int, ...] = ()
    """Of a Parquet file."""
    first_row: int = 0
    """Rows before those."""

    def entries(self) -> Iterator[Entry]:
        """The rows, in order."""
        number = self.first_row
        for rows, broken in self._batches():
            for reason in broken:
                yield Entry(None, {}, self.source.path, number, problem=reason)
            for entry, picture in self._rows(rows):
                yield self._with_picture(replace(entry, row=number), picture)
                number += 1

    def _rows(self, rows: pa.Table) -> Iterator[tuple[Entry, Any]]:
        names = self.columns.names
        pictures = rows[names["image"]].to_pylist() if rows.num_rows else []
        splits, item_ids, titles = (label_texts(rows, names.get(name)) for name in ("split", "item_id", "title"))
        labels = {head: label_texts(rows, name) for head, name in self.columns.heads.items()}
        for place, picture in enumerate(pictures):
            of_row = {head: values[place] for head, values in labels.items()}
            entry = Entry(None, of_row, self.source.path, item_id=item_ids[place], title=titles[place])
            yield _with_split(entry, splits[place]), picture

    def _batches(self) -> Iterator[tuple[pa.Table, list[str]]]:
        """Some rows, and the reason against each line between them that is no row."""
        if self.source.format != "parquet":
            for chunk in read(self.source):
                yield chunk.rows, [reason for reason, lines in chunk.broken.items() for _ in lines]
            return
        wanted = sorted({*self.columns.names.values(), *self.columns.heads.values()})
        try:
            with self.source.filesystem.open_input_file(self.source.path) as file:
                parquet = pq.ParquetFile(file)
                groups = list(self.row_groups)
                for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=groups, columns=wanted):
                    yield pa.Table.from_batches([batch]), []
        except (pa.ArrowException, OSError) as error:
            raise DataRejected(f"cannot read {self.source.path}: {error}; make it anew") from None

    def _with_picture(self, entry: Entry, picture: Any) -> Entry:
        if entry.problem is not None:
            return entry
        if isinstance(picture, Mapping):  # how the datasets library stores an image
            picture = picture.get("bytes")
        if isinstance(picture, bytes) and self.source.format == "parquet":
            return replace(entry, picture=picture)
        path = _text(picture)
        if path is None:
            return replace(entry, problem="missing_picture")
        beside = PurePosixPath(self.source.path).parent / path
        return _with_file(entry, replace(self.source, path=str(beside)))


@dataclass(frozen=True)
class IdxPair:
    """A file of pictures and one of labels in the IDX format, such as MNIST's."""

    pictures: Source
    labels: Source
    split: str
    head: str
    names: tuple[str, ...]

    def entries(self) -> Iterator[Entry]:
        """The pictures, in order."""
        with opened(self.pictures) as stream:
            pictures = read_idx(stream, path=self.pictures.path)
        with opened(self.labels) as stream:
            labels = read_idx(stream, path=self.labels.path)
        if pictures.ndim != 3 or labels.shape != pictures.shape[:1]:
            raise DataRejected(f"{self.labels.path} holds {len(labels):,} labels for {len(pictures):,} pictures")
        for row, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
            name = _class_name(label, self.names, path=self.labels.path)
            yield Entry(picture, {self.head: name}, self.pictures.path, row, split=self.split)


@dataclass(frozen=True)
class CifarBatch:
    """One Python batch of CIFAR-10."""

    source: Source
    split: str
    head: str
    names: tuple[str, ...]

    def entries(self) -> Iterator[Entry]:
        """The pictures, in order."""
        pictures, labels = read_cifar(read_bytes(self.source, limit=MAX_BATCH_BYTES), path=self.source.path)
        for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            name = _class_name(label, self.names, path=self.source.path)
            yield Entry(picture, {self.head: name}, self.source.path, row, split=self.split)


Part = Folder | Table | IdxPair | CifarBatch


def read_bytes(source: Source, *, limit: int) -> bytes:
    """A file's bytes, at most `limit` of them; gzip is undone."""
    with opened(source) as stream:
        content: bytes = stream.read(limit)
    return content


def label_texts(rows: pa.Table, name: str | None) -> list[str | None]:
    """A column as trimmed text, None where it says nothing; of a column that is not there, None in every row."""
    if name is None or name not in rows.column_names:
        return [None] * rows.num_rows
    column: pa.Array | pa.ChunkedArray = rows[name]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column, _ = decode(rows[name].combine_chunks())
    return [_text(value) for value in column.to_pylist()]


def _class_name(label: int, names: Sequence[str], *, path: str) -> str:
    if names and not 0 <= label < len(names):
        raise DataRejected(f"{path} has the label {label}, but there are {len(names)} class names; name all of them")
    return names[label] if names else str(label)


def _with_split(entry: Entry, split: str | None) -> Entry:
    if split is None:
        return entry
    known = SPLIT_NAMES.get(split.lower())
    return replace(entry, problem="unknown_split") if known is None else replace(entry, split=known)


def _with_file(entry: Entry, source: Source) -> Entry:
    try:
        # One byte more than allowed is enough to know that it is too large.
        return replace(entry, picture=read_bytes(source, limit=MAX_BYTES + 1))
    except (OSError, pa.ArrowException):
        return replace(entry, problem="missing_file")


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in _MISSING_WORDS else text
