"""Detects the layout of the raw images and cuts it into parts that can be read in parallel."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pyarrow.fs import LocalFileSystem

from models.errors import DataRejected
from models.image.prepare.folders import Tree, folder_of, read_catalogue, read_tree
from models.image.prepare.image_tables import Wanted, column_names, has_wanted, parts_of_tables, table_of_files
from models.image.prepare.labels import shown
from models.image.prepare.public_formats import MAX_BATCH_BYTES, read_cifar_names
from models.image.prepare.sources import CifarBatch, Folder, IdxPair, Part, groups_by_size, read_bytes
from models.raw.tables import INFERRED, SUFFIXES, Reading, Source, list_files, with_format, without_secrets

DEFAULT_HEAD = "category"

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
)
"""Suffixes of the files in a folder that are read as images."""
_PLAIN_TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
_TABLES = (".parquet", ".pq", *(f"{name}{packed}" for name in _PLAIN_TABLES for packed in ("", *SUFFIXES)))
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_JUNK_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
_IDX = re.compile(r"^(?P<set>.*?)-?images[-.]idx3-ubyte(\.gz)?$")
_CIFAR = re.compile(r"^(data_batch_\d+|test_batch)$")


@dataclass
class Layout:
    """The parts of the input, and what was left out."""

    parts: list[Part]
    left_out: dict[str, int] = field(default_factory=dict)
    """Folder or kind of file -> number of files that are not used."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the log and the card."""


def find_layout(raw: str, wanted: Wanted, reading: Reading = INFERRED) -> Layout:
    """The parts of `raw` in any known layout; raises DataRejected."""
    everything = list_files(raw, reading)
    wanted_files = [source for source in everything if not _is_junk(source)]
    sources = _without_loops(wanted_files)
    layout = _layout(raw, sources, wanted)
    if len(everything) > len(wanted_files):
        layout.left_out["thumbnails and trash of the operating system"] = len(everything) - len(wanted_files)
    if len(wanted_files) > len(sources):
        layout.left_out["symbolic links to a folder above"] = len(wanted_files) - len(sources)
        layout.notes.append("symbolic links to a folder above them are not followed")
    layout.left_out = dict(sorted(layout.left_out.items()))
    return layout


def _is_junk(source: Source) -> bool:
    """Whether an operating system or a storage box made the file for itself: thumbnails, the trash."""
    return any(part.lower() in _JUNK_FOLDERS for part in PurePosixPath(source.relative).parts)


def _without_loops(sources: Sequence[Source]) -> list[Source]:
    """The files, without those behind a symbolic link to a folder above it, which would repeat all images."""
    if not isinstance(sources[0].filesystem if sources else None, LocalFileSystem):
        return list(sources)
    real: dict[PurePosixPath, str] = {}

    def is_loop(folder: PurePosixPath, depth: int) -> bool:
        chain = [folder, *list(folder.parents)[:depth]]
        for place in chain:
            if place not in real:
                real[place] = os.path.realpath(place)
        return len({real[place] for place in chain}) < len(chain)

    folders = {PurePosixPath(source.path).parent: len(folder_of(source)) for source in sources}
    loops = {folder for folder, depth in folders.items() if is_loop(folder, depth)}
    return [source for source in sources if PurePosixPath(source.path).parent not in loops]


def _layout(raw: str, sources: Sequence[Source], wanted: Wanted) -> Layout:
    names = [PurePosixPath(source.path).name for source in sources]
    root = without_secrets(raw)
    if any(_CIFAR.match(name) for name in names):
        return Layout(_cifar(sources, head=_only_head(wanted, root), class_names=wanted.class_names))
    if any(_IDX.match(name) for name in names):
        return Layout(_idx(sources, head=_only_head(wanted, root), class_names=wanted.class_names))
    images = [source for source in sources if source.path.lower().endswith(IMAGE_SUFFIXES)]
    tables = [with_format(source) for source in sources if source.path.lower().endswith(_TABLES)]
    others = [source for source in sources if not source.path.lower().endswith((*IMAGE_SUFFIXES, *_TABLES))]
    if images:
        layout = _images(images, tables, root=root, wanted=wanted)
    elif tables:
        found = parts_of_tables(tables, wanted)
        layout = Layout([*found.parts], found.left_out, found.notes)
    else:
        raise DataRejected(
            f"{root} has no images in a known layout (it has {', '.join(names[:3]) or 'no files'}): use a folder "
            "per class, a table (Parquet, CSV), IDX files, or the Python batches of CIFAR-10"
            + ("; unpack the archive first" if any(name.lower().endswith(_ARCHIVES) for name in names) else "")
        )
    _note_others(others, layout)
    return layout


def _images(images: Sequence[Source], tables: Sequence[Source], *, root: str, wanted: Wanted) -> Layout:
    """Image files: with a table that has the labels, with labels from the item table, or in class folders."""
    fitting = [table for table in tables if has_wanted(table, wanted)]
    if fitting or (tables and wanted.columns):
        table = table_of_files(fitting, tables, images, wanted)
        layout = Layout([*table.parts], table.left_out, table.notes)
        _note_others([other for other in tables if other not in fitting], layout)
        return layout
    if wanted.elsewhere and wanted.heads.keys() <= wanted.elsewhere:
        tree, needs_class = read_catalogue(images, item_ids=wanted.item_ids), False
    else:
        if wanted.columns:
            raise DataRejected(f"{root} has image files and no table, so --columns has no effect; leave it out")
        head = _only_head(wanted, root)
        try:
            tree, needs_class = read_tree(images, root=root, subfolders=wanted.subfolders), True
        except DataRejected as rejected:
            if not tables:
                raise
            try:
                names = column_names(tables[0])
            except DataRejected as damaged:
                raise DataRejected(f"{rejected}. The table next to the images: {damaged}") from None
            raise DataRejected(
                f"{rejected}. {tables[0].relative} next to the images has the columns {', '.join(names)}: to read the "
                f"labels from it, name them, e.g. --labels {names[-1] if names else 'type'}"
            ) from None
    _note_others(tables, tree)
    head = next(iter(wanted.heads), DEFAULT_HEAD)
    groups = groups_by_size(tree.images, [image.source.num_bytes for image in tree.images])
    return Layout([Folder(tuple(group), head, needs_class) for group in groups], tree.left_out, tree.notes)


def _note_others(files: Sequence[Source], layout: Layout | Tree) -> None:
    """Count the files that are not read, by suffix."""
    kinds = Counter(PurePosixPath(file.path).suffix.lower() or PurePosixPath(file.path).name for file in files)
    for kind, count in kinds.items():
        layout.left_out[f"{kind} files"] = count
    if files:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))
        layout.notes.append(f"files that are not read: {listed}, e.g. {shown(files[0].relative)}")


def _only_head(wanted: Wanted, raw: str) -> str:
    if len(wanted.heads) > 1:
        raise DataRejected(
            f"{without_secrets(raw)} has one label per image; give --labels a single name, or use a table"
        )
    return next(iter(wanted.heads), DEFAULT_HEAD)


def _idx(sources: Sequence[Source], *, head: str, class_names: tuple[str, ...]) -> list[Part]:
    by_name = {PurePosixPath(source.path).name: source for source in sources}
    parts: list[Part] = []
    for name, images in by_name.items():
        match = _IDX.match(name)
        if match is None:
            continue
        labels = name.replace("images", "labels").replace("idx3", "idx1")
        if labels not in by_name:
            raise DataRejected(f"{images.path} has no {labels} in the same directory; both are needed")
        stem = match["set"].lower()
        split = "test" if stem in ("t10k", "test") else "train" if stem == "train" else ""
        parts.append(IdxPair(images, by_name[labels], split, head, class_names))
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
