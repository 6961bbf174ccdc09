"""Reads the meaning of a tree of image folders: which folders are splits, classes and products, and which neither."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa
from pyarrow.fs import FileSelector, FileType

from models.errors import DataRejected
from models.image.prepare.labels import class_name, shown
from models.image.prepare.sources import FolderImage
from models.image.prepare.split_names import KNOWN, is_fold, is_neutral, is_unlabelled, split_folders, split_of
from models.raw.ids import as_text
from models.raw.tables import Source

Subfolders = Literal["auto", "products", "classes", "ignored"]
"""What the folders below a class are."""

MANY_IMAGES = 20
"""A product folder with more images than this may be a class or a collection."""

Folder = tuple[str, ...]
"""Names of the folders from the root to an image."""


@dataclass
class Tree:
    """The images of a tree of folders, and what was left out."""

    images: list[FolderImage] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Folder -> number of its images that are not used."""
    notes: list[str] = field(default_factory=list)


class _Folders:
    """The folders that hold images, directly or below."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.direct = Counter(folder_of(source) for source in sources)
        self.total: Counter[Folder] = Counter()
        self.below: dict[Folder, set[str]] = defaultdict(set)
        """Folder -> the names of its folders."""
        for folder, count in self.direct.items():
            for depth in range(len(folder) + 1):
                self.total[folder[:depth]] += count
                if depth < len(folder):
                    self.below[folder[:depth]].add(folder[depth])


@dataclass(frozen=True)
class _Split:
    """One split, or all of a tree without splits."""

    name: str
    """train, val or test; empty without splits."""
    root: Folder
    """The folder that holds the class folders."""


def read_tree(sources: Sequence[Source], *, root: str, subfolders: Subfolders) -> Tree:
    """The image files of [split/]class/[product/] with their meaning; raises DataRejected if there are no classes.

    `root` names the tree in messages.
    """
    tree = Tree()
    folders = _Folders(sources)
    splits = _splits(folders, root, tree)
    meaning = _meaning(folders, splits, subfolders, tree)
    for source in sources:
        found = meaning(folder_of(source))
        if found is not None:
            tree.images.append(FolderImage(source, *found))
    _check_labels(tree, folders, root)
    _note_empty(folders, splits, sources[0], tree)
    return tree


def read_catalogue(sources: Sequence[Source], *, item_ids: Collection[str]) -> Tree:
    """Image files whose labels come from the item table: their ids are file names or folders, whichever it knows."""
    stems = _ids([PurePosixPath(source.relative).stem for source in sources])
    names = _ids([("", *folder_of(source))[-1] for source in sources])
    matched = [sum(one in item_ids for one in ids) for ids in (stems, names)]
    by = stems if matched[0] >= matched[1] else names
    found = split_folders({folder[0] for source in sources if (folder := folder_of(source))})
    tree = Tree(notes=[f"item ids are the names of the {'files' if by is stems else 'folders'}"])
    for source, item_id in zip(sources, by, strict=True):
        split = found.get((*folder_of(source), "")[0], "")
        tree.images.append(FolderImage(source, split, None, item_id))
    return tree


def _ids(names: Sequence[str]) -> list[str | None]:
    texts, _ = as_text(pa.array(names, pa.string()))
    ids: list[str | None] = texts.to_pylist()
    return ids


def folder_of(source: Source) -> Folder:
    """The names of the folders from the root to a file."""
    return PurePosixPath(source.relative).parts[:-1]


def _splits(folders: _Folders, root: str, tree: Tree) -> list[_Split]:
    """The splits that have class folders, or the whole tree as a split without a name."""
    base: Folder = ()
    while len(names := folders.below[base]) == 1:
        (name,) = names
        if split_folders(names) or not (is_neutral(name) or split_folders(folders.below[(*base, name)])):
            break
        base = (*base, name)
    tops = folders.below[base]
    found = split_folders(tops)
    if not found:
        _check_half_split(folders, base, root)
        return [_Split("", base)]
    for name in sorted(tops - found.keys()):
        _leave_out(folders, (*base, name), found, base, root, tree)
    splits = []
    for name, split in found.items():
        inner = _unwrapped(folders, (*base, name), split)
        count = folders.total[inner]
        if folders.below[inner]:
            splits.append(_Split(split, inner))
        elif split == "train":
            raise DataRejected(
                f"{_shown(inner)} of {root} has {count:,} images but no class folders; use a folder per class, "
                "train/Shirt/1.jpg, or a table with the labels of the images"
            )
        else:
            tree.left_out[_shown(inner)] = count
            tree.notes.append(f"{_shown(inner)} has {count:,} images without class folders and is left out")
    return splits


def _unwrapped(folders: _Folders, folder: Folder, split: str) -> Folder:
    """The folder in which the classes are: of seg_train/seg_train/Shirt and of train/images/Shirt the second."""
    while len(names := folders.below[folder]) == 1 and not folders.direct[folder]:
        (name,) = names
        if name.lower() != folder[-1].lower() and split_of(name) != split and not is_neutral(name):
            break
        folder = (*folder, name)
    return folder


def _leave_out(
    folders: _Folders, folder: Folder, splits: Mapping[str, str], base: Folder, root: str, tree: Tree
) -> None:
    """Note a folder next to the splits; raises DataRejected if it looks like a split with an unknown name."""
    trained: set[str] = set()
    for name, split in splits.items():
        trained |= folders.below[_unwrapped(folders, (*base, name), split)]
    common = folders.below[_unwrapped(folders, folder, "")] & trained
    if common and not is_unlabelled(folder[-1]):
        raise DataRejected(
            f"{_shown(folder)} of {root} has the class folder {shown(min(common))!r}, as the splits have, but is no "
            f"known split: rename it to one of {KNOWN}, or move it out of {root}"
        )
    count = folders.total[folder]
    tree.left_out[_shown(folder)] = count
    tree.notes.append(f"{_shown(folder)} has {count:,} images, is not a split ({KNOWN}) and is left out")


def _check_half_split(folders: _Folders, base: Folder, root: str) -> None:
    """Reject a tree in which one folder looks like a split and the others do not: classes would become splits."""
    tops = folders.below[base]
    if len(tops) > 1 and all(is_fold(name) for name in tops):
        raise DataRejected(
            f"{', '.join(_shown((*base, name)) for name in sorted(tops)[:3])} of {root} are folds and no classes; "
            f"arrange them as {KNOWN}"
        )
    below = {name: folders.below[(*base, name)] for name in tops}
    for name in sorted(name for name in tops if split_of(name) is not None):
        if len(tops) < 2 or len(below[name]) < 2:
            continue
        others = {inner for other in tops - {name} for inner in below[other]}
        if not others or below[name] & others:
            rest = ", ".join(shown(other) for other in sorted(tops - {name})[:3])
            raise DataRejected(
                f"{_shown((*base, name))} of {root} looks like a split, but {rest} next to it does not; name the "
                f"splits {KNOWN}, and move other folders out of {root}. If it is a class, put all classes in "
                "a folder `train`"
            )


def _meaning(
    folders: _Folders, splits: Sequence[_Split], subfolders: Subfolders, tree: Tree
) -> Callable[[Folder], tuple[str, str | None, str | None] | None]:
    """A function from a folder to split, label and product of its images; None if they are left out."""
    placed: dict[Folder, tuple[str, str | None, str | None]] = {}
    paths: list[tuple[Folder, str, Folder]] = []
    for folder in folders.direct:
        if any(folder == split.root[: len(folder)] for split in splits):
            placed[folder] = ("", None, None)  # next to the splits or classes: an image without a class
        for split in splits:
            if folder[: len(split.root)] == split.root:
                paths.append((folder, split.name, folder[len(split.root) :]))
    class_first = _is_class_first(paths)
    if class_first:
        paths = [(folder, split_of((*path, "", "")[1]) or "", (*path[:1], *path[2:])) for folder, _, path in paths]
    labels = {path: class_name(path[0]) for _, _, path in paths if path}
    _note_merged(labels, tree)
    products = _products(paths, labels, subfolders, tree)
    for folder, name, path in paths:
        label = labels.get(path) or None
        if label is not None and subfolders == "classes":
            label = "/".join(class_name(part) for part in path)
        placed[folder] = (name, label, products.get(path))
    _note_large({folder: of for folder, (_, _, of) in placed.items() if of}, folders.direct, tree)
    return placed.get


def _is_class_first(paths: Sequence[tuple[Folder, str, Folder]]) -> bool:
    """Whether the splits are below the classes: Shirt/train, Shirt/test."""
    below: dict[str, set[str]] = {path[0]: set() for _, _, path in paths if path}
    for _, split, path in paths:
        if split:
            return False
        if len(path) > 1:
            below[path[0]].add(path[1])
    named = [{split_of(name) for name in names} for names in below.values()]
    return all(splits and None not in splits for splits in named) and any(len(splits) > 1 for splits in named)


def _products(
    paths: Sequence[tuple[Folder, str, Folder]], labels: Mapping[Folder, str], subfolders: Subfolders, tree: Tree
) -> dict[Folder, str]:
    """The product id of the folders below the classes; a name that several classes have is preceded by the class."""
    classes: dict[str, set[str]] = defaultdict(set)
    for _, _, path in paths:
        if len(path) > 1:
            classes["/".join(path[1:])].add(labels[path])
    repeated = {name for name, of in classes.items() if len(of) > 1}
    if not classes or subfolders in ("classes", "ignored"):
        return {}
    has_digits = any(re.search(r"\d", name) for name in classes)
    if subfolders == "auto" and not has_digits and 2 * len(repeated) > len(classes):
        tree.notes.append(
            f"the folders below the classes ({', '.join(sorted(classes)[:3])}) have the same names in several classes: "
            "they are not products, and the photos of a product are not kept together (--subfolders products, or a "
            "table with item_id)"
        )
        return {}
    if repeated:
        tree.notes.append(
            f"{len(repeated):,} names of product folders are in several classes, e.g. {shown(min(repeated))}: they are "
            "different products, and their ids begin with the class"
        )
    return {
        path: f"{labels[path]}/{name}" if name in repeated else name
        for _, _, path in paths
        if (name := "/".join(path[1:]))
    }


def _note_merged(labels: Mapping[Folder, str], tree: Tree) -> None:
    """Say which folders are one class, since their names differ only in blanks or Unicode forms."""
    names: dict[str, set[str]] = defaultdict(set)
    for path, label in labels.items():
        names[label].add(path[0])
    for label, of in sorted(names.items()):
        if len(of) > 1:
            tree.notes.append(f"the folders {sorted(of)} differ only in blanks or Unicode forms: one class, {label!r}")


def _check_labels(tree: Tree, folders: _Folders, root: str) -> None:
    """Reject a tree without classes, and one in which a single folder holds the class folders."""
    labels = {image.label for image in tree.images if image.label}
    if not labels:
        raise DataRejected(
            f"{root} has {folders.total[()]:,} images but no class folders; use a folder per class (Shirt/1.jpg, or "
            "train/Shirt/1.jpg), or a table with the labels of the images"
        )
    products = sorted({image.item_id for image in tree.images if image.item_id})
    if len(labels) == 1 and len(products) > 1:
        raise DataRejected(
            f"{root} has one class folder, {min(labels)!r}; if the folders in it ({', '.join(products[:3])}) are the "
            "classes, add --subfolders classes, or give that folder as --raw"
        )


def _note_large(products: Mapping[Folder, str], counts: Counter[Folder], tree: Tree) -> None:
    """Say that the folders below the classes have more images than products usually have."""
    mean = sum(counts[folder] for folder in products) / max(1, len(set(products.values())))
    if mean > MANY_IMAGES:
        some = products[min(products)]
        tree.notes.append(
            f"the folders below the classes hold {mean:,.0f} images each, e.g. {shown(some)}: they are read as "
            "products, each in one split; if they are classes, add --subfolders classes, else --subfolders ignored"
        )


def _note_empty(folders: _Folders, splits: Sequence[_Split], some: Source, tree: Tree) -> None:
    """Say which folders next to the classes have no images."""
    root = PurePosixPath(some.path.removesuffix(some.relative))
    for above in sorted({(), *(split.root for split in splits)}):
        listed = some.filesystem.get_file_info(FileSelector(str(root.joinpath(*above))))
        names = {PurePosixPath(info.path).name for info in listed if info.type == FileType.Directory}
        for name in sorted(names - folders.below[above]):
            if not name.startswith((".", "_", "@")):
                shown_name = _shown((*above, name))
                tree.left_out[shown_name] = 0
                tree.notes.append(f"{shown_name} has no images and is left out")


def _shown(folder: Folder) -> str:
    return shown("/".join(folder) + "/")
