"""The files of exported events: their columns, and their names, which say which events of which store they hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]
SEQ, STORE = "event_seq", "event_store"
"""The columns by which `prepare` recognises exported events: an event's number, and the store that gave it."""
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("price", pa.float64()),
        ("quantity", pa.float64()),
        ("event_id", pa.string()),
        ("recommendation_id", pa.string()),
        (SEQ, pa.int64()),
        (STORE, pa.string()),
    ]
)

_NAME = re.compile(
    rf"events-(?P<store_id>[0-9A-Za-z]+)-(?P<first>\d+)-(?P<until>\d+)\.(?:{'|'.join(get_args(Format))})(?:\.\w+)?"
)


@dataclass(frozen=True)
class Export:
    """What a file holds: the events of a store with first <= seq <= until that were not erased before."""

    store_id: str
    first: int
    until: int


def name_of(export: Export, suffix: str) -> str:
    """The name of a file; files of one store sort by their events."""
    return f"events-{export.store_id}-{export.first:015d}-{export.until:015d}.{suffix}"


def export_of(name: str) -> Export | None:
    """What a file with this name holds; None if it is no name of an export. A compressed file is one too."""
    found = _NAME.fullmatch(name)
    return Export(found["store_id"], int(found["first"]), int(found["until"])) if found else None
