"""Joins by id: how many ids of two tables match, and what keeps the others from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected

ITEM_TABLE = "item table"
"""The name of --items in data cards."""
MIN_HINTED = 0.01
"""A hint is given if so large a share of the ids more would match."""
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Join:
    """How many distinct ids of a log and of a table of attributes match."""

    ids: int
    """Distinct ids that look for attributes."""
    matched: int
    """How many of them the table has."""
    table_ids: int
    table_matched: int
    """How many of the table's ids are looked for."""
    hint: str = ""
    """How many more ids would match if they were written alike, and the remedy."""

    def as_card(self) -> dict[str, Any]:
        """For the data card."""
        return {"joins": {ITEM_TABLE: asdict(self)}}


def join_ids(ids: pa.Array, table_ids: pa.Array, *, names: tuple[str, str], remedy: str) -> Join:
    """Count the matches of two arrays of distinct ids; DataRejected, with `remedy`, if there are none.

    `names` say whose ids these are, such as ("the log", "items.csv").
    """
    is_matched = pc.is_in(ids, value_set=table_ids)
    matched = pc.sum(is_matched).as_py() or 0
    hint = _hint(ids, ids.filter(pc.invert(is_matched)), table_ids, names=names)
    if not matched:
        whose, table = names
        raise DataRejected(
            f"no id of {whose} (e.g. {_shown(ids)}) is among the {len(table_ids):,} of {table} "
            f"(e.g. {_shown(table_ids)}): {hint or remedy}"
        )
    return Join(len(ids), matched, len(table_ids), pc.sum(pc.is_in(table_ids, value_set=ids)).as_py() or 0, hint)


def _hint(ids: pa.Array, unmatched: pa.Array, table_ids: pa.Array, *, names: tuple[str, str]) -> str:
    """The way of writing ids alike by which most of the unmatched would match, if they are enough."""
    if not len(unmatched):
        return ""
    whose, table = names
    table_unmatched = table_ids.filter(pc.invert(pc.is_in(table_ids, value_set=ids)))
    prefix, table_prefix = _prefix(unmatched), _prefix(table_unmatched)
    ways = (
        (
            _without_zeros(unmatched),
            _without_zeros(table_ids),
            f"without leading zeros; keep the zeros when {whose} and {table} are exported, e.g. as text",
        ),
        (
            pc.utf8_lower(unmatched),
            pc.utf8_lower(table_ids),
            f"in lower case; write the ids of {whose} and {table} in the same case",
        ),
        (
            _without_prefix(unmatched, prefix),
            _without_prefix(table_unmatched, table_prefix),
            f"without the prefix {prefix!r} in {whose} and {table_prefix!r} in {table}; write it in both or in none",
        ),
    )
    counts = [pc.sum(pc.is_in(ours, value_set=theirs)).as_py() or 0 for ours, theirs, _ in ways]
    best = max(range(len(ways)), key=lambda place: counts[place])
    if counts[best] < max(1, MIN_HINTED * len(ids)):
        return ""
    return f"{counts[best]:,} more ids would match {ways[best][2]}"


def _without_zeros(ids: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(ids, r"^0+(\d)", r"\1")


def _prefix(ids: pa.Array) -> str:
    """What all ids begin with, without the digits at its end, which are part of a number."""
    first, last = pc.min(ids).as_py() or "", pc.max(ids).as_py() or ""
    shared = [ours for ours, theirs in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return "".join(shared).rstrip("0123456789") if len(ids) > 1 else ""


def _without_prefix(ids: pa.Array, prefix: str) -> pa.Array:
    return pc.utf8_slice_codeunits(ids, start=len(prefix)) if prefix else ids


def _shown(ids: pa.Array) -> str:
    return repr(ids[0].as_py()[:_MAX_SHOWN]) if len(ids) else "none"
