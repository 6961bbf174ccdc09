"""Which layout a folder or file of pictures has, and its parts, which can be read side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DataRejected
from models.image.prepare.public_formats import MAX_BATCH_BYTES, read_cifar_names
from models.image.prepare.sources import SPLIT_NAMES, CifarBatch, Columns, Folder, IdxPair, Part, Table, read_bytes
from models.raw.tables import Source, find, list_files, read, without_secrets

DEFAULT_HEAD = "category"
COLUMNS = ("image", "item_id", "split", "title")
MAX_PARTS = 64
"""Files are cut into this many parts at the most, whatever the number of workers."""
PART_BYTES = 16 * 1024 * 1024

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
"""Names by which a file of a folder counts as a picture; what is in it decides whether it is one."""
_TABLES = (".parquet", ".pq", ".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz")
_IDX = re.compile(r"^(?P<set>.*?)-?images[-.]idx3-ubyte(\.gz)?$")
_CIFAR = re.compile(r"^(data_batch_\d+|test_batch)$")


T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is to be read of a layout."""

    heads: Mapping[str, str]
    """Label head -> the table's column."""
    columns: Mapping[str, str]
    """Of COLUMNS -> the table's column."""
    class_names: tuple[str, ...] = ()
    """Names of numbered classes."""
    elsewhere: frozenset[str] = frozenset()
    """Heads that a table may lack, for a table of products has them."""


def find_parts(raw: str, wanted: Wanted) -> list[Part]:
    """The parts of `raw`, whichever layout it has; raises DataRejected."""
    sources = list_files(raw)
    names = [PurePosixPath(source.path).name for source in sources]
    if any(_CIFAR.match(name) for name in names):
        return _cifar(sources, head=_only_head(wanted, raw), class_names=wanted.class_names)
    if any(_IDX.match(name) for name in names):
        return _idx(sources, head=_only_head(wanted, raw), class_names=wanted.class_names)
    if any(name.lower().endswith(PICTURES) for name in names):
        return _folders(sources, head=_only_head(wanted, raw))
    if all(name.lower().endswith(_TABLES) for name in names):
        return [part for table in find(raw) for part in _tables(table, wanted)]
    raise DataRejected(
        f"{without_secrets(raw)} holds no pictures in a known layout (it has {', '.join(names[:3])}): give a folder "
        "per class, a table (Parquet, CSV), IDX files, or the Python batches of CIFAR-10"
    )


def _only_head(wanted: Wanted, raw: str) -> str:
    if len(wanted.heads) > 1:
        raise DataRejected(
            f"{without_secrets(raw)} says one label for each picture; give --labels one name, or a table"
        )
    return next(iter(wanted.heads), DEFAULT_HEAD)


def _folders(sources: Sequence[Source], *, head: str) -> list[Part]:
    pictures = [source for source in sources if source.path.lower().endswith(PICTURES)]
    tops = {PurePosixPath(source.relative).parts[0].lower() for source in pictures}
    has_splits = tops <= set(SPLIT_NAMES)
    return [Folder(tuple(group), head, has_splits) for group in _groups(pictures, [one.num_bytes for one in pictures])]


def _tables(source: Source, wanted: Wanted) -> list[Part]:
    """A part for each table, of a large Parquet file one for some row groups."""
    if source.format != "parquet":
        chunk = next(read(source), None)
        present = [] if chunk is None else chunk.rows.column_names
        return [Table(source, _columns(present, wanted, source))]
    try:
        with source.filesystem.open_input_file(source.path) as file:
            parquet = pq.ParquetFile(file)
            columns = _columns(parquet.schema_arrow.names, wanted, source)
            groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise DataRejected(f"cannot read {source.path} as parquet: {error}; make it anew") from None
    before = [0]
    for group in groups:
        before.append(before[-1] + group.num_rows)
    numbers = _groups(range(len(groups)), [group.total_byte_size for group in groups])
    return [Table(source, columns, tuple(some), before[some[0]]) for some in numbers]


def _columns(present: Sequence[str], wanted: Wanted, source: Source) -> Columns:
    """The columns of a table that are wanted; raises DataRejected that lists those there are."""
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
        raise DataRejected(
            f"say which columns of {source.path} are labels, e.g. --labels {present[-1]}; it has {listed}"
        )
    return Columns(names, heads)


def _idx(sources: Sequence[Source], *, head: str, class_names: tuple[str, ...]) -> list[Part]:
    by_name = {PurePosixPath(source.path).name: source for source in sources}
    parts: list[Part] = []
    for name, pictures in by_name.items():
        match = _IDX.match(name)
        if match is None:
            continue
        labels = name.replace("images", "labels").replace("idx3", "idx1")
        if labels not in by_name:
            raise DataRejected(f"{pictures.path} has no {labels} beside it; both are needed")
        stem = match["set"].lower()
        split = "test" if stem in ("t10k", "test") else "train" if stem == "train" else ""
        parts.append(IdxPair(pictures, by_name[labels], split, head, class_names))
    return parts


def _cifar(sources: Sequence[Source], *, head: str, class_names: tuple[str, ...]) -> list[Part]:
    by_name = {PurePosixPath(source.path).name: source for source in sources}
    if not class_names and "batches.meta" in by_name:
        meta = by_name["batches.meta"]
        class_names = tuple(read_cifar_names(read_bytes(meta, limit=MAX_BATCH_BYTES), path=meta.path))
    return [
        CifarBatch(source, "test" if name == "test_batch" else "train", head, class_names)
        for name, source in by_name.items()
        if _CIFAR.match(name)
    ]


def _groups(things: Sequence[T], sizes: Sequence[int]) -> list[list[T]]:
    """Neighbours together, in up to MAX_PARTS groups of about equal size."""
    total = sum(sizes) or 1
    count = min(MAX_PARTS, total // PART_BYTES + 1)
    groups: dict[int, list[T]] = {}
    before = 0
    for thing, size in zip(things, sizes, strict=True):
        groups.setdefault(before * count // total, []).append(thing)
        before += size
    return list(groups.values())
