"""Readers of the raw layouts, each a stream of entries; images are neither decoded nor checked here."""

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
from models.raw.ids import MISSING_WORDS, as_text, id_text
from models.raw.tables import Source, decode, opened, read

SPLIT_NAMES = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
}
ROWS_PER_BATCH = 64
"""Rows of a table in memory at once; each may hold an image of MAX_BYTES."""


@dataclass(frozen=True)
class Entry:
    """One image of the raw data."""

    image: bytes | Pixels | None
    """The encoded file, or pixels [height, width] or [height, width, 3]; None if there is a problem."""
    labels: Mapping[str, str | None]
    source: str
    """File it was read from."""
    row: int = 0
    """Index in the file, from 0."""
    item_id: str | None = None
    split: str = ""
    """train, val or test if the input has splits, else empty."""
    title: str | None = None
    """The shop's title of the product."""
    problem: str | None = None
    """Reason code if there is no image."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read."""

    names: Mapping[str, str]
    """image, item_id, split, title -> the table's column; columns that the table lacks are left out."""
    heads: Mapping[str, str]
    """Label head -> the table's column; heads that the table lacks are left out."""


@dataclass(frozen=True)
class Folder:
    """Some image files of a layout with a folder per class: [split/]class/[product/]file."""

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
            item_id = str(id_text("/".join(parts[1:]))) or None
            entry = Entry(None, labels, source.path, item_id=item_id, split=split)
            yield _with_file(entry, source) if parts else replace(entry, problem="missing_class")


@dataclass(frozen=True)
class Table:
    """Some rows of a table with an encoded image or the path of one in each row."""

    source: Source
    columns: Columns
    row_groups: tuple[int, ...] = ()
    """Of a Parquet file."""
    first_row: int = 0
    """Number of rows before the first row group."""

    def entries(self) -> Iterator[Entry]:
        """The rows, in order."""
        number = self.first_row
        for rows, broken in self._batches():
            for reason in broken:
                yield Entry(None, {}, self.source.path, number, problem=reason)
            for entry, image in self._rows(rows):
                yield self._with_image(replace(entry, row=number), image)
                number += 1

    def _rows(self, rows: pa.Table) -> Iterator[tuple[Entry, Any]]:
        names = self.columns.names
        images = rows[names["image"]].to_pylist() if rows.num_rows else []
        splits, titles = (label_texts(rows, names.get(name)) for name in ("split", "title"))
        item_ids = id_texts(rows, names.get("item_id"))
        labels = {head: label_texts(rows, name) for head, name in self.columns.heads.items()}
        for index, image in enumerate(images):
            of_row = {head: values[index] for head, values in labels.items()}
            entry = Entry(None, of_row, self.source.path, item_id=item_ids[index], title=titles[index])
            yield _with_split(entry, splits[index]), image

    def _batches(self) -> Iterator[tuple[pa.Table, list[str]]]:
        """Chunks of rows, with a reason for each line that could not be parsed."""
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
            raise DataRejected(f"cannot read {self.source.path}: {error}; write the file again") from None

    def _with_image(self, entry: Entry, image: Any) -> Entry:
        if entry.problem is not None:
            return entry
        if isinstance(image, Mapping):  # the image feature of Hugging Face datasets
            image = image.get("bytes")
        if isinstance(image, bytes) and self.source.format == "parquet":
            return replace(entry, image=image)
        path = _text(image)
        if path is None:
            return replace(entry, problem="missing_picture")
        path_from_table = PurePosixPath(self.source.path).parent / path
        return _with_file(entry, replace(self.source, path=str(path_from_table)))


@dataclass(frozen=True)
class IdxPair:
    """A file of images and one of labels in the IDX format, such as MNIST's."""

    images: Source
    labels: Source
    split: str
    head: str
    names: tuple[str, ...]

    def entries(self) -> Iterator[Entry]:
        """The images, in order."""
        with opened(self.images) as stream:
            images = read_idx(stream, path=self.images.path)
        with opened(self.labels) as stream:
            labels = read_idx(stream, path=self.labels.path)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataRejected(f"{self.labels.path} has {len(labels):,} labels for {len(images):,} images")
        for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            name = _class_name(label, self.names, path=self.labels.path)
            yield Entry(image, {self.head: name}, self.images.path, row, split=self.split)


@dataclass(frozen=True)
class CifarBatch:
    """One Python batch of CIFAR-10."""

    source: Source
    split: str
    head: str
    names: tuple[str, ...]

    def entries(self) -> Iterator[Entry]:
        """The images, in order."""
        images, labels = read_cifar(read_bytes(self.source, limit=MAX_BATCH_BYTES), path=self.source.path)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = _class_name(label, self.names, path=self.source.path)
            yield Entry(image, {self.head: name}, self.source.path, row, split=self.split)


Part = Folder | Table | IdxPair | CifarBatch


def read_bytes(source: Source, *, limit: int) -> bytes:
    """At most `limit` bytes of a file, decompressed."""
    with opened(source) as stream:
        content: bytes = stream.read(limit)
    return content


def label_texts(rows: pa.Table, name: str | None) -> list[str | None]:
    """A column as stripped strings, None for missing values; all None if the column does not exist."""
    if name is None or name not in rows.column_names:
        return [None] * rows.num_rows
    column: pa.Array | pa.ChunkedArray = rows[name]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column, _ = decode(rows[name].combine_chunks())
    return [_text(value) for value in column.to_pylist()]


def id_texts(rows: pa.Table, name: str | None) -> list[str | None]:
    """A column of ids, None for missing ones; all None if the column does not exist."""
    if name is None or name not in rows.column_names:
        return [None] * rows.num_rows
    text, _ = as_text(rows[name].combine_chunks())
    ids: list[str | None] = text.to_pylist()
    return ids


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
        # One byte more than allowed shows that the file is too large.
        return replace(entry, image=read_bytes(source, limit=MAX_BYTES + 1))
    except (OSError, pa.ArrowException):
        return replace(entry, problem="missing_file")


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in MISSING_WORDS else text
