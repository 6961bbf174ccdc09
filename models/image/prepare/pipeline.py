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
import pyarrow as pa

from models.errors import DataRejected
from models.image.prepare.layouts import COLUMNS, DEFAULT_HEAD, Wanted, find_parts
from models.image.prepare.shards import (
    PHRASES,
    TITLE,
    Measured,
    Scan,
    Scanned,
    Written,
    measure,
    quarantine_duplicates,
    scan,
    write_shard,
)
from models.image.prepare.sources import id_texts, label_texts
from models.image.schema import MISSING, NUM_SHARDS, SPLITS, Schema
from models.image.text.titles import Form, Lexicon, learn_forms
from models.raw.joins import join_ids
from models.raw.quarantine import remedy
from models.raw.tables import find, parse_mapping, read, without_secrets
from models.settings import Share, check_settings

LAYOUT = 1
"""Version of the file layout and the rules of this package; part of the fingerprint."""
HEAD = re.compile(r"^[A-Za-z]\w*$", re.ASCII)
"""Valid names of labels, which become parts of metric names."""
MAX_AUTO_SIZE = 128
SIZE_STEP = 4
"""Automatic sizes are multiples of this, since networks downsample images by two at least twice."""


@dataclass(frozen=True)
class PrepareConfig:
    """Source, labels and splits of the images to prepare."""

    raw: str
    """Images: a folder per class, a table (Parquet, CSV) with images or their paths, IDX files, or the Python batches
    of CIFAR-10; a file, a folder, or a URI such as s3://bucket/path."""
    labels: tuple[str, ...] = ()
    """Label columns, the main one first, e.g. category,colour; HEAD=COLUMN renames one."""
    columns: str = ""
    """Names of the table's other columns, e.g. image=photo,item_id=sku,split=fold,title=product_name."""
    items: str | None = None
    """Table of products with further labels, joined by item_id."""
    item_columns: str = ""
    """Columns of the product table's id and title, e.g. item_id=sku,title=product_name."""
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
    wanted, item_labels = _wanted(config)
    parts = find_parts(config.raw, wanted)
    heads = list(wanted.heads) or [DEFAULT_HEAD]
    work = out / "work"
    for directory in (work, out / "shards", out / "quarantine"):
        directory.mkdir(parents=True)
    size, channels = _image_form(config, list(executor.map(measure, parts)))
    tasks = [Scan(number, part, tuple(heads), size, channels, out) for number, part in enumerate(parts)]
    scanned = list(executor.map(scan, tasks))
    _check_bad(config, scanned)
    images = _scanned_images(work, heads, item_labels)
    join = {} if item_labels is None else _join(config, images, item_labels)
    kept, duplicates = _deduplicated(images, heads)
    quarantine_duplicates(out, duplicates)
    kept = _split(kept, config)
    classes = {head: _classes(kept[head]) for head in heads}
    _check_enough(kept, classes)
    forms = _encode_titles(kept, classes) if TITLE in kept else []
    _plan(work, kept, classes)
    form = (channels, size, size)
    written = list(executor.map(partial(write_shard, out, form=form, num_heads=len(heads)), range(NUM_SHARDS)))
    schema = _schema(classes, kept, written, form=form, forms=forms)
    card = _card(config, schema, scanned, kept, num_duplicates=len(duplicates)) | join
    (out / "schema.json").write_text(schema.model_dump_json(), encoding="utf-8")
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(work)
    return schema


def _wanted(config: PrepareConfig) -> tuple[Wanted, pd.DataFrame | None]:
    """The columns to read, and the labels of the product table; checks every flag before any image is read."""
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
    items = None if config.items is None else _item_labels(config, config.items, heads)
    elsewhere = frozenset() if items is None else frozenset(head for head in heads if head in items)
    return Wanted(heads, columns, config.class_names, elsewhere), items


def _item_labels(config: PrepareConfig, raw: str, heads: Mapping[str, str]) -> pd.DataFrame:
    """The heads and titles of the product table, by item_id; of repeated ids the first row in sorted order counts."""
    names = parse_mapping(config.item_columns, names=("item_id", "title"))
    own, wanted = names.get("item_id", "item_id"), {**heads, TITLE: names.get("title", "title")}
    frames = []
    for source in find(raw):
        for chunk in read(source):
            present = [head for head, column in wanted.items() if column in chunk.rows.column_names]
            if own not in chunk.rows.column_names:
                listed = ", ".join(chunk.rows.column_names)
                raise DataRejected(
                    f"{source.path} has no column {own!r} (it has {listed}); name it: --item-columns item_id=..."
                )
            columns = {head: label_texts(chunk.rows, wanted[head]) for head in present}
            frames.append(pd.DataFrame({"item_id": id_texts(chunk.rows, own), **columns}, dtype=object))
    if not frames:
        raise DataRejected(f"{without_secrets(raw)} has no rows")
    table = pd.concat(frames, ignore_index=True).dropna(subset="item_id")
    return table.sort_values(list(table.columns)).drop_duplicates("item_id").set_index("item_id")


def _join(config: PrepareConfig, images: pd.DataFrame, item_labels: pd.DataFrame) -> dict[str, Any]:
    """For the card: how many products of the images have a row in the product table; DataRejected if none has."""
    ids = pa.array(sorted(images["item_id"].dropna().unique()), pa.string())
    table_ids = pa.array(sorted(item_labels.index), pa.string())
    remedy = "name the columns of the ids: --columns item_id=... --item-columns item_id=..."
    names = ("the images", f"the product table {without_secrets(config.items or '')}")
    if not len(ids):
        raise DataRejected(f"the images have no product ids by which to join {names[1]}; {remedy}")
    return {"joins": {"product table": join_ids(ids, table_ids, names=names, remedy=remedy).as_card()}}


def _image_form(config: PrepareConfig, measured: Sequence[Measured]) -> tuple[int, int]:
    """Image size and channels of the prepared images."""
    sides: Counter[int] = sum((part.longer_sides for part in measured), Counter())
    channels = 1 if sides and all(part.is_grey for part in measured) else 3
    if config.size:
        return config.size, channels
    values, counts = (np.array(column) for column in zip(*sorted(sides.items()), strict=True)) if sides else ([8], [1])
    median = int(values[np.searchsorted(np.cumsum(counts), sum(counts) / 2)])
    return max(8, min(MAX_AUTO_SIZE, round(median / SIZE_STEP) * SIZE_STEP)), channels


def _check_bad(config: PrepareConfig, scanned: Sequence[Scanned]) -> None:
    total = sum(part.num_entries for part in scanned)
    bad: Counter[str] = sum((part.bad for part in scanned), Counter())
    if not total:
        raise DataRejected(f"{without_secrets(config.raw)} is empty: it has no images")
    fraction = bad.total() / total
    if fraction <= config.max_bad_fraction and bad.total() < total:
        return
    examples = {reason: example for part in scanned for reason, example in part.examples.items()}
    reasons = "; ".join(f"{count:,} {reason}, e.g. {examples[reason]}" for reason, count in bad.most_common(3))
    raise DataRejected(
        f"{without_secrets(config.raw)}: {bad.total():,} of {total:,} images ({fraction:.1%}) are bad, more than "
        f"--max-bad-fraction {config.max_bad_fraction:g} allows: {reasons}. To continue, "
        f"{remedy(fraction, is_any_good=bad.total() < total)}"
    )


def _scanned_images(work: Path, heads: Sequence[str], item_labels: pd.DataFrame | None) -> pd.DataFrame:
    """The metadata of every valid image: digest, item_id, split, source, scan, place, a column for each head, TITLE."""
    parts = [pd.read_parquet(path).assign(scan=int(path.stem)) for path in sorted(work.glob("*.parquet"))]
    images = pd.concat(parts, ignore_index=True)
    if item_labels is not None:
        for name in (*heads, TITLE):
            if name in item_labels:
                images[name] = images[name].fillna(images["item_id"].map(item_labels[name]))
    return images if images[TITLE].notna().any() else images.drop(columns=TITLE)


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


def _split(kept: pd.DataFrame, config: PrepareConfig) -> pd.DataFrame:
    """Assign shards, and splits that the input does not have, by a hash of the product."""
    own = [
        item if isinstance(item, str) else digest for item, digest in zip(kept["item_id"], kept["digest"], strict=True)
    ]
    hashes = np.frombuffer(b"".join(hashlib.sha256(key.encode()).digest()[:16] for key in own), ">u8").reshape(-1, 2)
    position = hashes[:, 1].astype(np.float64) / 2.0**64
    input_split = kept["split"].to_numpy(dtype=object)
    has_test, has_val = (input_split == "test").any(), (input_split == "val").any()
    val_until = 0.0 if has_val else config.val_fraction
    test_from = 1.0 if has_test else 1.0 - config.test_fraction
    assigned = np.where(position < val_until, "val", np.where(position >= test_from, "test", "train"))
    split = np.where((input_split == "test") | (input_split == "val"), input_split, assigned)
    return kept.assign(split=split, shard=(hashes[:, 0] % NUM_SHARDS).astype(np.int64))


def _classes(labels: pd.Series[Any]) -> list[str]:
    """The sorted class names; numeric names are sorted as numbers."""
    names = [str(name) for name in labels.dropna().unique()]
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _check_enough(kept: pd.DataFrame, classes: Mapping[str, list[str]]) -> None:
    for head, names in classes.items():
        if len(names) < 2:
            raise DataRejected(f"the label {head!r} has {len(names)} classes; classification needs at least 2")
        if len(names) > np.iinfo(np.int16).max:
            raise DataRejected(f"the label {head!r} has {len(names):,} classes; is it an id? Leave it out of --labels")
    labelled = kept[kept[list(classes)].notna().any(axis=1)]
    sizes = {split: int((labelled["split"] == split).sum()) for split in SPLITS}
    empty = [split for split, count in sizes.items() if not count]
    if empty:
        listed = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
        raise DataRejected(
            f"the {empty[0]} split has no images ({listed}); "
            f"give more images, or a larger --{'test' if empty[0] == 'test' else 'val'}-fraction"
        )


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
    config: PrepareConfig, schema: Schema, scanned: Sequence[Scanned], kept: pd.DataFrame, *, num_duplicates: int
) -> dict[str, Any]:
    bad: Counter[str] = sum((part.bad for part in scanned), Counter())
    return {
        "family": "image",
        "fingerprint": schema.fingerprint,
        "raw": without_secrets(config.raw),
        "rows": sum(part.num_entries for part in scanned),
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
