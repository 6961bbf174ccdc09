"""Labels and titles from an item table, joined to the images by item id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from models.errors import DataRejected
from models.image.prepare.labels import read_labels, read_texts, shown, unreadable
from models.raw.joins import ITEM_TABLE, join_ids
from models.raw.quarantine import Quarantine, check_bad
from models.raw.rejections import Rejections
from models.raw.tables import Reading, Source, find, read, without_secrets

ITEM_ID, TITLE = "item_id", "_title"
"""Columns of the joined tables; no head begins with an underscore."""
MISSING_ID = "item_table_missing_item_id"
"""Reason of rows without an id, which do not count against --max-bad-fraction."""


@dataclass
class ItemLabels:
    """The item table by item id, and how it was read."""

    raw: str
    table: pd.DataFrame
    """Indexed by item id; a column per head that the table has, and TITLE."""
    num_rows: int = 0
    """Rows of the table, also bad ones."""
    bad: Counter[str] = field(default_factory=Counter)
    """Reason -> number of rows that are left out."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the first value left out for it."""
    missing_words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Head and word -> rows whose label is missing because of that word."""

    def explained(self) -> dict[str, str]:
        """Each reason of bad rows with its example."""
        return {reason: f"{reason}, e.g. {example}" for reason, example in self.examples.items()}

    def join(self, images: pd.DataFrame, heads: Sequence[str]) -> dict[str, Any]:
        """Fill missing labels and titles of the images in place; returns what the card says of the join.

        Raises DataRejected if no image has an id of the table.
        """
        ids = images[ITEM_ID].dropna()
        if ids.empty:
            raise DataRejected(
                f"the images have no item ids to look up in {self.raw}: name the column, --columns item_id=sku, or use "
                "a folder per product"
            )
        join = join_ids(
            pa.array(ids.unique(), pa.string()),
            pa.array(self.table.index, pa.string()),
            names=("the images", f"the {ITEM_TABLE} {self.raw}"),
            remedy="name the columns of the ids: --item-columns item_id=..., --columns item_id=...",
        )
        for name in (*heads, TITLE):
            if name in self.table:
                images[name] = images[name].fillna(images[ITEM_ID].map(self.table[name]))
        num_matched = int(ids.isin(self.table.index).sum())
        counts = {"matched_images": num_matched, "unmatched_images": len(images) - num_matched}
        return {**join.as_card(), "items_table": {"rows": self.num_rows, **counts}}

    def notes(self, images: pd.DataFrame) -> list[str]:
        """What is said about images that the table does not have."""
        is_known = images[ITEM_ID].isin(self.table.index)
        if is_known.all():
            return []
        joined = f"only {int(is_known.sum()):,} of {len(images):,} images are in {self.raw}"
        unknown = images.loc[~is_known, ITEM_ID].dropna()
        example = f", e.g. the item id {unknown.iloc[0]!r} is not" if len(unknown) else ""
        return [f"{joined}{example}"]


def read_items(
    raw: str,
    *,
    heads: Mapping[str, str],
    columns: Mapping[str, str],
    reading: Reading,
    max_bad_fraction: float,
    quarantine: Quarantine,
) -> ItemLabels:
    """Read the heads and titles of an item table; of repeated ids the first row in sorted order counts.

    `columns` are the table's names of item_id and title. Rows that cannot be read, or without an id, are quarantined;
    raises DataRejected if too many cannot be read.
    """
    own, wanted = columns.get(ITEM_ID, ITEM_ID), {**heads, TITLE: columns.get("title", "title")}
    found = ItemLabels(without_secrets(raw), pd.DataFrame())
    frames = []
    for source in find(raw, reading):
        for chunk in read(source):
            for reason, lines in chunk.broken.items():
                quarantine.add_lines(lines, reason=f"item_table_{reason}", source=source.path)
                found.num_rows += len(lines)
                found.examples.setdefault(f"item_table_{reason}", f"{shown(lines[0])} in {source.path}")
            if chunk.rows.num_rows:
                frames.append(_frame(chunk.rows, own, wanted, found=found, source=source, quarantine=quarantine))
    found.bad = Counter(quarantine.counts)
    _check(found, own, max_bad_fraction)
    table = pd.concat(frames, ignore_index=True)
    found.table = table.sort_values(list(table.columns)).drop_duplicates(ITEM_ID).set_index(ITEM_ID)
    return found


def _frame(
    rows: pa.Table, own: str, wanted: Mapping[str, str], *, found: ItemLabels, source: Source, quarantine: Quarantine
) -> pd.DataFrame:
    """The rows that can be read and have an id; counts all in `found`, and quarantines the others."""
    path = source.path
    if own not in rows.column_names:
        listed = ", ".join(rows.column_names)
        raise DataRejected(f"{path} has no column {own!r} (it has {listed}); name it: --item-columns item_id=...")
    texts = {ITEM_ID: read_texts(rows, own)}
    for head, column in wanted.items():
        if column in rows.column_names:
            texts[head] = read_texts(rows, column) if head == TITLE else read_labels(rows, column, path=path)
            found.missing_words.update((head, word) for word in texts[head].missing_words if word and head != TITLE)
    rejections = Rejections(rows.num_rows)
    for head, of in texts.items():
        wrong = np.array([value is not None for value in of.unreadable])
        if wrong.any():
            name, value = own if head == ITEM_ID else wanted[head], of.unreadable[int(wrong.argmax())] or ""
            reason, remedy = unreadable(value, flag=source.reading.encoding_flag)
            rejections.add(wrong, f"item_table_{reason}")
            found.examples.setdefault(f"item_table_{reason}", f"{shown(value)} in column {name!r} of {path}; {remedy}")
    rejections.add(np.array([value is None for value in texts[ITEM_ID].values]), MISSING_ID)
    is_bad = rejections.codes > 0
    quarantine.add_rows(rows.filter(pa.array(is_bad)), reasons=rejections.reasons(), source=path)
    found.num_rows += rows.num_rows
    return pd.DataFrame({head: of.values for head, of in texts.items()}, dtype=object)[~is_bad]


def _check(found: ItemLabels, own: str, max_bad_fraction: float) -> None:
    if not found.num_rows:
        raise DataRejected(f"{found.raw} has no rows")
    without_id = found.bad[MISSING_ID]
    if without_id == found.num_rows:
        raise DataRejected(f"column {own!r} of {found.raw} is empty; name the item ids: --item-columns item_id=...")
    check_bad(
        found.raw,
        {reason: count for reason, count in found.bad.items() if reason != MISSING_ID},
        total=found.num_rows,
        max_fraction=max_bad_fraction,
        explained=found.explained(),
        num_skipped=without_id,
    )
