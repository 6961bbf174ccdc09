"""Readers of the raw layouts, each a stream of entries; images are neither decoded nor checked here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.image.codec import MAX_BYTES, Pixels
from models.image.prepare.labels import Texts, read_labels, read_texts, shown, unreadable
from models.image.prepare.public_formats import MAX_BATCH_BYTES, read_cifar, read_idx
from models.image.prepare.split_names import KNOWN, split_of
from models.raw.chunks import with_fields
from models.raw.ids import as_text
from models.raw.tables import Source, opened, read, with_partition

ROWS_PER_BATCH = 64
"""Rows of a table in memory at once; each may hold an image of MAX_BYTES."""

MAX_PARTS = 64
"""Maximum number of parts, whatever the number of workers."""
PART_BYTES = 16 * 1024 * 1024

T = TypeVar("T")

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BASE64 = re.compile(r"^(data:image/|iVBORw0KGgo|/9j/|UklGR|R0lGOD)|^[A-Za-z0-9+/=\s]{400,}$")
"""The beginning of a data URI, or of a PNG, JPEG, WebP or GIF file in base64; or a long text in its alphabet."""
_MIN_BASE64 = 60


@dataclass(frozen=True)
class Entry:
    """One image of the raw data."""

    image: bytes | Pixels | None
    """The encoded file, or pixels [height, width] or [height, width, 3]; None if there is a problem."""
    labels: Mapping[str, str | None]
    source: str
    """File it was read from."""
    row: int | None = None
    """Index in the table or set, from 0; None for an image file."""
    item_id: str | None = None
    split: str = ""
    """train, val or test if the input has splits, else empty."""
    title: str | None = None
    """The shop's title of the product."""
    problem: str | None = None
    """Reason code if there is no image."""
    detail: str = ""
    """What is wrong, for people."""
    value: str = ""
    """The offending value of the table, or the file, as a message shows it."""
    missing_words: Mapping[str, str] = field(default_factory=dict)
    """Label head -> the word in the table that means a missing label, such as `None`."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read."""

    names: Mapping[str, str]
    """image, item_id, split, title -> the table's column; columns that the table lacks are left out."""
    heads: Mapping[str, str]
    """Label head -> the table's column; heads that the table lacks are left out."""


@dataclass(frozen=True)
class FolderImage:
    """One image file of a tree of folders, with the meaning of its folders."""

    source: Source
    split: str
    label: str | None
    item_id: str | None


@dataclass(frozen=True)
class Folder:
    """Some image files of a tree of folders."""

    images: tuple[FolderImage, ...]
    head: str
    needs_class: bool = True
    """Whether an image outside of a class folder is bad; false if the labels come from an item table."""

    def entries(self) -> Iterator[Entry]:
        """The files, in order."""
        for image in self.images:
            source = image.source
            labels = {self.head: image.label} if self.needs_class else {}
            entry = Entry(
                None, labels, source.path, item_id=image.item_id, split=image.split, value=shown(source.relative)
            )
            if image.label is None and self.needs_class:
                yield replace(entry, problem="missing_class", detail="it is not in a class folder")
            else:
                yield _with_file(entry, [source])


@dataclass(frozen=True)
class Table:
    """Some rows of a table with an encoded image or the path of one in each row."""

    source: Source
    columns: Columns
    row_groups: tuple[int, ...] = ()
    """Of a Parquet file."""
    first_row: int = 0
    """Number of rows before the first row group."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path, name or name without suffix -> path of an image file in the table's folder."""
    split: str = ""
    """Split of the rows without one."""

    def entries(self) -> Iterator[Entry]:
        """The rows, in order."""
        number = self.first_row
        for rows, broken in self._batches():
            for reason, line in broken:
                yield Entry(None, {}, self.source.path, number, problem=reason, value=shown(line))
            for entry, image in self._rows(rows):
                yield self._with_image(replace(entry, row=number), image)
                number += 1

    def _rows(self, rows: pa.Table) -> Iterator[tuple[Entry, Any]]:
        names, heads, path = self.columns.names, self.columns.heads, self.source.path
        images = rows[names["image"]].to_pylist() if rows.num_rows else []
        splits, item_ids, titles = (read_texts(rows, names.get(name)) for name in ("split", "item_id", "title"))
        labels = {head: read_labels(rows, name, path=path) for head, name in heads.items()}
        columns = {
            **{names.get(name, name): texts for name, texts in (("split", splits), ("item_id", item_ids))},
            **{names.get("title", "title"): titles},
            **{heads[head]: texts for head, texts in labels.items()},
        }
        for index, image in enumerate(images):
            entry = Entry(
                None,
                {head: texts.values[index] for head, texts in labels.items()},
                path,
                item_id=item_ids.values[index],
                title=titles.values[index],
                missing_words={head: word for head, texts in labels.items() if (word := texts.missing_words[index])},
            )
            entry = _with_split(replace(entry, split=self.split), splits.values[index])
            yield _checked(entry, columns, index, flag=self.source.reading.encoding_flag), image

    def _batches(self) -> Iterator[tuple[pa.Table, list[tuple[str, str]]]]:
        """Chunks of rows, with reason and text of each line that could not be parsed."""
        if self.source.format != "parquet":
            for chunk in read(self.source):
                yield chunk.rows, [(reason, line) for reason, lines in chunk.broken.items() for line in lines]
            return
        wanted = sorted({*self.columns.names.values(), *self.columns.heads.values()})
        try:
            with self.source.filesystem.open_input_file(self.source.path) as file:
                parquet = pq.ParquetFile(file)
                groups = list(self.row_groups)
                for batch in parquet.iter_batches(batch_size=ROWS_PER_BATCH, row_groups=groups, columns=wanted):
                    yield with_partition(with_fields(pa.Table.from_batches([batch])), self.source), []
        except (pa.ArrowException, OSError) as error:
            raise DataRejected(f"cannot read {self.source.path}: {error}; write the file again") from None

    def _with_image(self, entry: Entry, image: Any) -> Entry:
        if entry.problem is not None:
            return entry
        if isinstance(image, Mapping):  # the image feature of Hugging Face datasets
            image = image.get("bytes") or image.get("path")
        if isinstance(image, bytes) and self.source.format == "parquet":
            return replace(entry, image=image)
        name = self.columns.names["image"]
        text, is_unreadable = as_text(pa.array([image]))
        path = text[0].as_py()
        if is_unreadable[0].as_py():
            detail = f"column {name!r} has neither bytes nor a path in UTF-8"
            return replace(entry, problem="missing_picture", detail=detail, value=shown(image))
        if path is None:
            return replace(entry, problem="missing_picture", detail=f"column {name!r} is empty")
        entry = replace(entry, value=shown(path))
        problem = _unreadable_reference(path)
        if problem is not None:
            return replace(entry, problem=problem[0], detail=problem[1])
        return _with_file(entry, [replace(self.source, path=place) for place in self._places(path)])

    def _places(self, path: str) -> list[str]:
        """Where the image file may be: as written, then with the backslashes of Windows as slashes."""
        named = named_file(path, self.files)
        if named is not None:
            return [named]
        written = dict.fromkeys([path, path.replace("\\", "/")])
        return [str(PurePosixPath(self.source.path).parent / one) for one in written]


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


def named_file(text: str, files: Mapping[str, str]) -> str | None:
    """The image file that a cell names: a path has to be the whole path, with slashes or the backslashes of Windows."""
    for written in (text, text.replace("\\", "/")):
        found = files.get(str(PurePosixPath(written)))
        if found is not None:
            return found
    return None


def groups_by_size(items: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Consecutive items in up to MAX_PARTS groups of about equal size in bytes."""
    total = sum(sizes) or 1
    count = min(MAX_PARTS, total // PART_BYTES + 1)
    groups: dict[int, list[T]] = {}
    before = 0
    for item, size in zip(items, sizes, strict=True):
        groups.setdefault(before * count // total, []).append(item)
        before += size
    return list(groups.values())


Part = Folder | Table | IdxPair | CifarBatch


def read_bytes(source: Source, *, limit: int) -> bytes:
    """At most `limit` bytes of a file, decompressed."""
    with opened(source) as stream:
        content: bytes = stream.read(limit)
    return content


def _file_bytes(source: Source, *, limit: int) -> bytes:
    try:
        return read_bytes(source, limit=limit)
    except DataRejected:  # an archive with the name of an image is one bad image, which its bytes show
        with source.filesystem.open_input_stream(source.path, compression=None) as stream:
            return stream.read(limit)


def _class_name(label: int, names: Sequence[str], *, path: str) -> str:
    if names and not 0 <= label < len(names):
        raise DataRejected(f"{path} has the label {label}, but there are {len(names)} class names; name all of them")
    return names[label] if names else str(label)


def _with_split(entry: Entry, split: str | None) -> Entry:
    if split is None:
        return entry
    known = split_of(split)
    if known is None:
        return replace(entry, problem="unknown_split", value=shown(split), detail=f"write {KNOWN}")
    return replace(entry, split=known)


def _checked(entry: Entry, columns: Mapping[str, Texts], index: int, *, flag: str) -> Entry:
    """The entry, with a problem if the value of one of its columns cannot be read as text."""
    for name, texts in columns.items():
        value = texts.unreadable[index]
        if value is not None and entry.problem is None:
            reason, remedy = unreadable(value, flag=flag)
            return replace(entry, problem=reason, value=shown(value), detail=f"in column {name!r}; {remedy}")
    return entry


def _with_file(entry: Entry, sources: Sequence[Source]) -> Entry:
    """The entry with the bytes of the first of the files that exists."""
    for source in sources:
        try:
            # One byte more than allowed shows that the file is too large.
            return replace(entry, image=_file_bytes(source, limit=MAX_BYTES + 1))
        except (OSError, pa.ArrowException):
            continue
    folder = PurePosixPath(entry.source).parent
    return replace(entry, problem="missing_file", detail=f"there is no such file; paths start at {folder}")


def _unreadable_reference(text: str) -> tuple[str, str] | None:
    """Reason and detail for a cell that is neither bytes nor a path."""
    if _URL.match(text):
        return "url", "images are not downloaded: save them as files, and name their paths"
    if len(text) >= _MIN_BASE64 and _BASE64.match(text):
        return "base64", "images as base64 text are not read: save them as files, or as bytes in a Parquet column"
    return None
