"""The `prepare` pipeline of images: check, resize, deduplicate, split and shard by product."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.errors import DataRejected
from models.image.prepare.folders import Subfolders
from models.image.prepare.image_tables import COLUMNS, Wanted
from models.image.prepare.item_labels import TITLE, ItemLabels, read_items
from models.image.prepare.layouts import DEFAULT_HEAD, Layout, find_layout
from models.image.prepare.origin import origin
from models.image.prepare.shards import (
    PHRASES,
    Measured,
    Scan,
    Scanned,
    Written,
    measure,
    merged,
    quarantine_duplicates,
    scan,
    write_shard,
)
from models.image.prepare.splits import assign, check_classes, class_notes
from models.image.schema import MISSING, NUM_SHARDS, SPLITS, Schema
from models.image.text.titles import Form, Lexicon, learn_forms
from models.raw.notes import said_if_rejected
from models.raw.quarantine import Quarantine, check_bad
from models.raw.reading import TableSettings, item_reading_of, reading_of
from models.raw.tables import parse_mapping, without_secrets
from models.settings import Share, check_settings

LAYOUT = 1
"""Version of the file layout and the rules of this package; part of the fingerprint."""
HEAD = re.compile(r"^[A-Za-z]\w*$", re.ASCII)
"""Valid names of labels, which become parts of metric names."""
MAX_AUTO_SIZE = 128
SIZE_STEP = 4
"""Automatic sizes are multiples of this, since networks downsample images by two at least twice."""


@dataclass(frozen=True)
class PrepareConfig(TableSettings):
    """Source, labels and splits of the images to prepare."""

    raw: str
    """Images: a folder per class (also below train, val and test), a table (Parquet, CSV) with images or their paths,
    IDX files, or the Python batches of CIFAR-10; a file, a folder, or a URI such as s3://bucket/path."""
    labels: tuple[str, ...] = ()
    """Label columns, the main one first, e.g. category,colour; HEAD=COLUMN renames one."""
    columns: str = ""
    """Names of the table's other columns, e.g. image=photo,item_id=sku,split=fold,title=product_name."""
    items: str | None = None
    """Table of products with further labels, joined by item_id; if it has all labels, image files may be named by their
    item_id and need no class folders."""
    item_columns: str = ""
    """Columns of the item table's id and title, e.g. item_id=sku,title=product_name."""
    subfolders: Subfolders = "auto"
    """What the folders below a class folder are: products, classes (Shoes/Boots is a class), or ignored; auto takes
    them for products unless they have the same names in most classes, such as front and back."""
    class_names: tuple[str, ...] = ()
    """Class names of numeric labels, from 0 on, e.g. T-shirt,Trouser,Pullover."""
    size: int = 0
    """Side in pixels to which images are resized; 0 uses the median of their longer sides, at most 128."""
    val_fraction: Share = 0.1
    """Fraction of the products in the validation split, if the input does not define it."""
    test_fraction: Share = 0.2
    """Fraction of the products in the test split, if the input does not define it."""
    max_bad_fraction: Share = 0.01
    """Reject the input if a larger fraction of its images is bad; duplicates are not bad."""

    def __post_init__(self) -> None:
        check_settings(self)


def prepare(config: PrepareConfig, out: Path, executor: Executor) -> Schema:
    """Fill the empty directory `out` from raw images; raises DataRejected for bad data, ValueError for bad flags.

    The files depend on the set of valid images and their labels only. Of images with equal pixels one is kept,
    preferably from the input's test split; a label on which duplicates disagree is set to missing. All images of a
    product are in one split and one shard.
    """
    with Quarantine(out / "quarantine" / "items.parquet") as quarantine:
        wanted, items = _wanted(config, quarantine)
    layout = find_layout(config.raw, wanted, reading_of(config))
    with said_if_rejected(layout.notes):
        return _prepare(config, out, executor, layout, items, heads=list(wanted.heads) or [DEFAULT_HEAD])


def _prepare(
    config: PrepareConfig, out: Path, executor: Executor, layout: Layout, items: ItemLabels | None, *, heads: list[str]
) -> Schema:
    """Prepare the images of a layout, and add to its notes."""
    work = out / "work"
    for directory in (work, out / "shards", out / "quarantine"):
        directory.mkdir(parents=True, exist_ok=True)
    size, channels = _image_form(config, list(executor.map(measure, layout.parts)))
    tasks = [Scan(number, part, tuple(heads), size, channels, out) for number, part in enumerate(layout.parts)]
    scanned = merged(executor.map(scan, tasks))
    _check_bad(config, scanned)
    images, join = _scanned_images(work, heads, items, notes=layout.notes)
    kept, duplicates = _deduplicated(images, heads)
    quarantine_duplicates(out, duplicates)
    kept = assign(kept, heads, val_fraction=config.val_fraction, test_fraction=config.test_fraction)
    classes = {head: _classes(kept[head]) for head in heads}
    check_classes(kept, classes)
    layout.notes += class_notes(kept, classes)
    forms = _encode_titles(kept, classes) if TITLE in kept else []
    _plan(work, kept, classes)
    form = (channels, size, size)
    written = list(executor.map(partial(write_shard, out, form=form, num_heads=len(heads)), range(NUM_SHARDS)))
    schema = _schema(classes, kept, written, form=form, forms=forms)
    bad = scanned.bad + (Counter() if items is None else items.bad)
    card = _card(config, schema, kept, rows=scanned.num_entries, bad=bad, num_duplicates=len(duplicates))
    card |= origin(layout, scanned, items, join)
    (out / "schema.json").write_text(schema.model_dump_json(), encoding="utf-8")
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(work)
    return schema


def _wanted(config: PrepareConfig, quarantine: Quarantine) -> tuple[Wanted, ItemLabels | None]:
    """The columns to read, and the labels of the item table; checks every flag before any image is read."""
    columns = parse_mapping(config.columns, names=COLUMNS)
    pairs = [entry.partition("=") for entry in config.labels]
    heads = {head.strip(): (column or head).strip() for head, _, column in pairs}
    if len(heads) != len(pairs) or not all(heads) or not all(heads.values()):
        raise ValueError(
            f"--labels {','.join(config.labels)!r} has an empty or repeated name; write e.g. category,colour"
        )
    unnamed = next((head for head in heads if not HEAD.match(head)), None)
    if unnamed is not None:
        raise ValueError(f"--labels {unnamed!r} cannot be part of a metric name; rename it: --labels colour={unnamed}")
    if config.val_fraction + config.test_fraction >= 1:
        raise ValueError("--val-fraction and --test-fraction leave no training data; they must add up to less than 1")
    if config.size and not 8 <= config.size <= 512:
        raise ValueError(f"--size {config.size} is out of range; use 8 to 512, or 0")
    if config.items is None:
        return Wanted(heads, columns, config.class_names, subfolders=config.subfolders), None
    names = parse_mapping(config.item_columns, names=("item_id", "title"))
    items = read_items(
        config.items,
        heads=heads,
        columns=names,
        reading=item_reading_of(config),
        max_bad_fraction=config.max_bad_fraction,
        quarantine=quarantine,
    )
    elsewhere, item_ids = frozenset(head for head in heads if head in items.table), frozenset(items.table.index)
    return Wanted(heads, columns, config.class_names, elsewhere, item_ids, config.subfolders), items


def _image_form(config: PrepareConfig, measured: Sequence[Measured]) -> tuple[int, int]:
    """Image size and channels of the prepared images."""
    sides: Counter[int] = sum((part.longer_sides for part in measured), Counter())
    channels = 1 if sides and all(part.is_grey for part in measured) else 3
    if config.size:
        return config.size, channels
    values, counts = (np.array(column) for column in zip(*sorted(sides.items()), strict=True)) if sides else ([8], [1])
    median = int(values[np.searchsorted(np.cumsum(counts), sum(counts) / 2)])
    return max(8, min(MAX_AUTO_SIZE, round(median / SIZE_STEP) * SIZE_STEP)), channels


def _check_bad(config: PrepareConfig, scanned: Scanned) -> None:
    raw = without_secrets(config.raw)
    if not scanned.num_entries:
        raise DataRejected(f"{raw} is empty: it has no images")
    check_bad(
        raw,
        scanned.bad,
        total=scanned.num_entries,
        max_fraction=config.max_bad_fraction,
        explained=scanned.explained(),
        what="images",
    )


def _scanned_images(
    work: Path, heads: Sequence[str], items: ItemLabels | None, *, notes: list[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The metadata of every valid image, and what the card says of the join with the item table; adds to the notes.

    The columns are digest, item_id, split, source, scan, place, one for each head, and TITLE.
    """
    parts = [pd.read_parquet(path).assign(scan=int(path.stem)) for path in sorted(work.glob("*.parquet"))]
    images = pd.concat(parts, ignore_index=True)
    join = {} if items is None else items.join(images, heads)
    notes += [] if items is None else items.notes(images)
    return (images if images[TITLE].notna().any() else images.drop(columns=TITLE)), join


def _deduplicated(images: pd.DataFrame, heads: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One image for each digest, and the duplicates."""
    order = images["split"].map({"test": 0, "val": 1, "train": 2, "": 3})
    titles = [TITLE] if TITLE in images else []
    by = ["digest", "order", "item_id", "source", *heads, *titles]
    images = images.assign(order=order).sort_values(by, ignore_index=True)
    is_first = ~images.duplicated("digest")
    kept, duplicates = images[is_first].set_index("digest"), images[~is_first]
    repeated = images[images["digest"].isin(duplicates["digest"])].groupby("digest")[heads]
    agreed = repeated.first().where(repeated.nunique() <= 1)
    kept.loc[agreed.index, heads] = agreed
    return kept.reset_index(), duplicates


def _classes(labels: pd.Series[Any]) -> list[str]:
    """The sorted class names; numeric names are sorted as numbers."""
    names = [str(name) for name in labels.dropna().unique()]
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _encode_titles(kept: pd.DataFrame, classes: Mapping[str, list[str]]) -> list[Form]:
    """The vocabulary learned from the training titles; adds the column PHRASES with every image's encoded title."""
    labels = [dict(zip(classes, row, strict=True)) for row in kept[list(classes)].to_numpy(dtype=object).tolist()]
    titles = kept[TITLE].where(kept[TITLE].notna(), None).tolist()
    trained = np.flatnonzero(kept["split"] == "train").tolist()
    forms = learn_forms(classes, [titles[row] for row in trained], [labels[row] for row in trained])
    lexicon = Lexicon(classes, forms)
    kept[PHRASES] = [lexicon.encode(title, of) for title, of in zip(titles, labels, strict=True)]
    return forms


def _plan(work: Path, kept: pd.DataFrame, classes: Mapping[str, list[str]]) -> None:
    """Write the plan of each shard: its images sorted by product and digest, with class indices instead of names."""
    for head, names in classes.items():
        index = {name: place for place, name in enumerate(names)}
        kept[head] = kept[head].map(index).fillna(MISSING).astype(np.int16)
    kept = kept.sort_values(["shard", "item_id", "digest"], ignore_index=True)
    titles = [TITLE, PHRASES] if TITLE in kept else []
    columns = ["digest", "item_id", "source", "split", "scan", "place", *titles, *classes]
    (work / "plan").mkdir()
    for shard in range(NUM_SHARDS):
        kept.loc[kept["shard"] == shard, columns].to_parquet(work / "plan" / f"{shard:05d}.parquet", index=False)


def _schema(
    classes: Mapping[str, list[str]],
    kept: pd.DataFrame,
    written: Sequence[Written],
    *,
    form: tuple[int, int, int],
    forms: list[Form],
) -> Schema:
    channels, size, _ = form
    labelled = kept[(kept[list(classes)] != MISSING).any(axis=1)]
    in_train = kept[kept["split"] == "train"]
    counts = {head: np.bincount(in_train[head][in_train[head] >= 0], minlength=len(classes[head])) for head in classes}
    total = sum(part.num_train_pixels for part in written)
    mean = np.sum([part.sums for part in written], axis=0) / (255.0 * total)
    square = np.sum([part.squares for part in written], axis=0) / (255.0**2 * total)
    rule = {"layout": LAYOUT, "form": form, "heads": classes, "shards": [part.digest for part in written]}
    return Schema(
        family="image",
        fingerprint=hashlib.sha256(json.dumps(rule).encode()).hexdigest(),
        num_shards=NUM_SHARDS,
        num_examples={split: int((labelled["split"] == split).sum()) for split in SPLITS},
        heads=dict(classes),
        label_counts={head: count.tolist() for head, count in counts.items()},
        channels=channels,
        size=size,
        mean=mean.tolist(),
        std=np.sqrt(np.maximum(square - mean**2, 1e-6)).tolist(),
        forms=forms,
        item_ids=bool(kept["item_id"].notna().any()),
    )


def _card(
    config: PrepareConfig, schema: Schema, kept: pd.DataFrame, *, rows: int, bad: Counter[str], num_duplicates: int
) -> dict[str, Any]:
    return {
        "family": "image",
        "fingerprint": schema.fingerprint,
        "raw": without_secrets(config.raw),
        "rows": rows,
        "kept": len(kept),
        "duplicates": num_duplicates,
        "bad": dict(sorted(bad.items())),
        "items": int(kept["item_id"].nunique()),
        "size": schema.size,
        "channels": schema.channels,
        "splits": schema.num_examples,
        "unlabelled": len(kept) - sum(schema.num_examples.values()),
        "classes": {
            head: dict(zip(names, schema.label_counts[head], strict=True)) for head, names in schema.heads.items()
        },
        "titles": int(kept[TITLE].notna().sum()) if TITLE in kept else 0,
        "missing_labels": {head: int((kept[head] == MISSING).sum()) for head in schema.heads},
    }
