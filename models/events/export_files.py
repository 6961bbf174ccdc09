"""Writes the events of a store as files that `prepare` reads, each complete or absent."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.events.event import Event
from models.events.exports import SCHEMA, Export, Format, export_of, name_of
from models.events.store import EventStore
from models.files import leftovers, put_file, temporary_path

EVENTS_PER_FILE = 1_000_000
"""An export that is killed loses at most the file that it was writing."""
UNFINISHED = "events"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Write = Callable[[Sequence[Event]], None]


@dataclass
class Exported:
    """What an export has written."""

    num_events: int = 0
    files: list[Path] = field(default_factory=list)
    superseded: list[Path] = field(default_factory=list)
    """Older files in the folder whose events are all in the new ones; `prepare` counts none twice."""


def export(store: EventStore, folder: Path, *, format: Format = "parquet", all_again: bool = False) -> Exported:
    """Write the events that the folder does not hold yet, or all again; raises ValueError for another folder's events.

    A file's name says which events it holds, so a folder knows by itself where an export was interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in leftovers(folder, UNFINISHED):
        with suppress(OSError):  # another export is deleting it
            path.unlink()
    known = {path: found for path in sorted(folder.iterdir()) if (found := export_of(path.name))}
    own = {path: found for path, found in known.items() if found.store_id == store.store_id}
    until = store.last_seq()
    after = 0 if all_again else max((found.until for found in own.values()), default=0)
    if after > until:
        raise ValueError(
            f"{folder} holds events up to {after} of the store {store.store_id}, which has given numbers up to {until} "
            "only: it is an older copy; restore it with `shopkeeper events restore`, which goes on with larger numbers"
        )
    done = Exported()
    blocks = store.scan(after_seq=after, until_seq=until)
    while block := next(blocks, []):
        path, last, count = _write_file(folder, block, blocks, Export(store.store_id, after + 1, 0), format)
        done.files.append(path)
        done.num_events += count
        after = last
    if done.files and all_again:
        done.superseded = [path for path, found in own.items() if found.until <= after and path not in done.files]
    return done


def _write_file(
    folder: Path, block: list[Event], blocks: Iterator[list[Event]], started: Export, format: Format
) -> tuple[Path, int, int]:
    """Write a file that begins with a block; returns its path, its last number and its number of events."""
    temporary = temporary_path(folder / UNFINISHED)
    try:
        with _WRITERS[format](temporary, started.store_id) as write:
            count, following = 0, block
            while following:
                write(following)
                last, count = following[-1].seq, count + len(following)
                following = next(blocks, []) if count < EVENTS_PER_FILE else []
        path = folder / name_of(Export(started.store_id, started.first, last), format)
        put_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path, last, count


@contextmanager
def _parquet(path: Path, store_id: str) -> Iterator[Write]:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:

        def write(events: Sequence[Event]) -> None:
            columns = zip(*(_row(event, store_id, event.time_us) for event in events), strict=True)
            arrays = [pa.array(list(values), kind) for values, kind in zip(columns, SCHEMA.types, strict=True)]
            writer.write_table(pa.table(arrays, schema=SCHEMA))

        yield write


@contextmanager
def _csv(path: Path, store_id: str) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(SCHEMA.names)
        yield lambda events: lines.writerows(_row(event, store_id, _rfc3339(event.time_us)) for event in events)


@contextmanager
def _jsonl(path: Path, store_id: str) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(events: Sequence[Event]) -> None:
            for event in events:
                row = dict(zip(SCHEMA.names, _row(event, store_id, _rfc3339(event.time_us)), strict=True))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


_WRITERS = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}


def _row(event: Event, store_id: str, time: Any) -> tuple[Any, ...]:
    """The values of a row, in the order of SCHEMA."""
    return (
        event.user_id,
        event.session_id,
        event.item_id,
        event.event_type,
        time,
        event.price,
        event.quantity,
        event.event_id,
        event.recommendation_id,
        event.seq,
        store_id,
    )


def _rfc3339(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
