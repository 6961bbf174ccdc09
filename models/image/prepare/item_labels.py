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
from models.image.prepare.labels import read_labels, read_texts, shown
from models.raw.encodings import encoding_remedy, unescaped
from models.raw.joins import ITEM_TABLE, join_ids
from models.raw.quarantine import check_bad
from models.raw.tables import Reading, find, read, without_secrets

ITEM_ID, TITLE = "item_id", "_title"
"""Columns of the joined tables; no head begins with an underscore."""


@dataclass
class ItemLabels:
    """The item table by item id, and how it was read."""

    raw: str
    table: pd.DataFrame
    """Indexed by item id; a column per head that the table has, and TITLE."""
    num_rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    missing_words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Head and word -> rows whose label is missing because of that word."""

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
    raw: str, *, heads: Mapping[str, str], columns: Mapping[str, str], max_bad_fraction: float, reading: Reading
) -> ItemLabels:
    """Read the heads and titles of an item table; of repeated ids the first row in sorted order counts.

    `columns` are the table's names of item_id and title. Raises DataRejected if too many rows cannot be read.
    """
    own, wanted = columns.get(ITEM_ID, ITEM_ID), {**heads, TITLE: columns.get("title", "title")}
    found = ItemLabels(without_secrets(raw), pd.DataFrame())
    frames = []
    example = ""
    for source in find(raw, reading):
        for chunk in read(source):
            for reason, lines in chunk.broken.items():
                found.bad[f"item_table_{reason}"] += len(lines)
                example = example or f"{shown(lines[0])} in {source.path}"
            if chunk.rows.num_rows:
                frame, wrong = _frame(chunk.rows, own, wanted, found=found, path=source.path)
                frames.append(frame)
                example = example or wrong
    if not frames:
        raise DataRejected(f"{found.raw} has no rows")
    _check_bad(found, example, max_bad_fraction)
    table = pd.concat(frames, ignore_index=True).dropna(subset=ITEM_ID)
    if table.empty:
        raise DataRejected(f"column {own!r} of {found.raw} is empty; name the item ids: --item-columns item_id=...")
    found.table = table.sort_values(list(table.columns)).drop_duplicates(ITEM_ID).set_index(ITEM_ID)
    return found


def _frame(
    rows: pa.Table, own: str, wanted: Mapping[str, str], *, found: ItemLabels, path: str
) -> tuple[pd.DataFrame, str]:
    """The rows that can be read, and an example of a value that cannot; counts both in `found`."""
    if own not in rows.column_names:
        listed = ", ".join(rows.column_names)
        raise DataRejected(f"{path} has no column {own!r} (it has {listed}); name it: --item-columns item_id=...")
    texts = {ITEM_ID: read_texts(rows, own)}
    for head, column in wanted.items():
        if column in rows.column_names:
            texts[head] = read_texts(rows, column) if head == TITLE else read_labels(rows, column, path=path)
            found.missing_words.update((head, word) for word in texts[head].missing_words if word and head != TITLE)
    is_bad, example = np.zeros(rows.num_rows, bool), ""
    for head, of in texts.items():
        wrong = np.array([value is not None for value in of.unreadable])
        if wrong.any():
            name, value = own if head == ITEM_ID else wanted[head], of.unreadable[int(wrong.argmax())]
            example = example or f"{value} in column {name!r} of {path}; {_remedy(value or '')}"
        is_bad |= wrong
    found.num_rows += rows.num_rows
    found.bad["item_table_not_utf8"] += int(is_bad.sum())
    return pd.DataFrame({head: of.values for head, of in texts.items()}, dtype=object)[~is_bad], example


def _remedy(value: str) -> str:
    is_bytes = "\\x" in value
    return encoding_remedy(unescaped(value), flag="--item-encoding") if is_bytes else "write it as text"


def _check_bad(found: ItemLabels, example: str, max_bad_fraction: float) -> None:
    found.bad = +found.bad
    num_lines = found.num_rows + found.bad.total() - found.bad["item_table_not_utf8"]
    explained = {reason: f"{reason}, e.g. {example}" for reason in found.bad}
    check_bad(found.raw, found.bad, total=num_lines, max_fraction=max_bad_fraction, explained=explained)
