"""Takes erased users out of prepared logs: the finished shards become sorted partitions again, which are finished anew.

Nothing is read but the prepared data, so the raw log need not exist any more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.erasure.contract import Erasure
from models.erasure.erased import FOREVER, REASON, Erased, digest_of
from models.erasure.quarantine import copy_quarantine
from models.prepared import CARD, SCHEMA, Prepared
from models.raw.joins import ITEM_TABLE
from models.raw.times import epoch_s
from models.recommender.prepare.card import sums
from models.recommender.prepare.diagnosis import diagnose, in_schema
from models.recommender.prepare.event_types import AMOUNTS, TYPES, Details, Evaluated, LogTypes, types_in_schema
from models.recommender.prepare.partitions import NEVER, Sharded, Sorted, write_shard
from models.recommender.prepare.pipeline import prepare, schema_of, write_items
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.prepare.splits import Cut, check_splits
from models.recommender.prepare.vocabulary import check_enough, index_items
from models.recommender.schema import Schema

ITEMS = "items.parquet"
USERS = "users.parquet"

Booleans = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]


def held(data: Prepared, erased: Erased) -> Collection[bytes]:
    """Digests of the erased users of whom the data still have an event before the end of the erasure."""
    found: set[bytes] = set()
    for shard in data.shards():
        users = pq.read_table(shard / USERS)["user_id"].combine_chunks()
        until = erased.until_each(users)
        suspects = np.flatnonzero(until > -FOREVER)
        if not len(suspects):
            continue
        left_out = _left_out(shard, until)
        offsets = load_array(shard / "offsets.npy")
        for place in suspects.tolist():
            if left_out[offsets[place] : offsets[place + 1]].any():
                found.add(digest_of(users[place].as_py(), erased.salt))
    return found


def rewrite(data: Prepared, out: Path, executor: Executor, erased: Erased) -> Schema:
    """Fill an empty directory with the data without the events of erased users; see `models.erasure.contract`.

    The times of the split, the targets and the seen types stay. An item leaves the vocabulary if only erased users had
    events with it and it is in no separate item table; a column of attributes keeps its type. Bots and rare items,
    which prepare left out, are not decided anew.
    """
    before, card = data.schema(Schema), data.card()
    work, shards = out / "work", out / "shards"
    for directory in (work, shards):
        directory.mkdir(parents=True)
    table = pq.read_table(data.path / ITEMS)
    restore = partial(restore_partition, data, out, erased, names=before.event_types)
    parts = list(executor.map(restore, range(data.num_shards)))
    vocabulary = index_items(work, _items_without_events(data, table, is_separate=ITEM_TABLE in card.get("joins", {})))
    check_enough(sum(part.num_users for part in parts), sum(part.num_events for part in parts), vocabulary)
    types = LogTypes.of([(part.num_of_type, part.num_amounts) for part in parts])
    evaluated = _evaluated(before, types)
    cut = Cut(before.split, _seconds(before.val_from), _seconds(before.test_from), types.codes_of(evaluated.targets))
    write = partial(write_shard, work, shards, num_items=len(vocabulary), cut=cut, log_types=types)
    finished = list(executor.map(write, enumerate(parts)))
    check_splits(sums(part.num_events for part in finished), sums(part.num_examples for part in finished), cut)
    diagnosis = diagnose(shards, executor, num_items=len(vocabulary), type_names=types.names)
    table = table.take(pa.array([before.index[item] - 1 for item in vocabulary.to_pylist()]))
    about = types_in_schema(types, evaluated, [part.num_of_type for part in finished]) | in_schema(diagnosis)
    has_times = (shards / "00000" / "sessions.npy").exists()
    num_features = write_items(table, out)
    shutil.copystat(data.path / ITEMS, out / ITEMS)  # by its time live items are newer or not
    made = schema_of(
        before.split, cut, finished, table=table, has_times=has_times, num_features=num_features, about=about
    )
    # What this release does not compute, such as how far a log of events goes, stays.
    kept = {name: getattr(before, name) for name in Schema.model_fields if name not in made.model_fields_set}
    schema = made.model_copy(update=kept)
    (out / SCHEMA).write_text(schema.model_dump_json(), encoding="utf-8")
    num_quarantined = copy_quarantine(data.path / "quarantine", out / "quarantine", erased)
    card |= _card(card, schema, parts, finished) | {"diagnosis": diagnosis, "rewritten_from": before.fingerprint}
    (out / CARD).write_text(json.dumps(_counted(card, num_quarantined), indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(work)
    return schema


def restore_partition(data: Prepared, out: Path, erased: Erased, number: int, *, names: list[str]) -> Sorted:
    """Write a shard as it was when it was sorted, before its items were indexed, without the events of erased users."""
    source = data.shard(number)
    shard, scratch = out / "shards" / source.name, out / "work" / "sorted" / source.name
    shard.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    users = pq.read_table(source / USERS)
    mask = ~_left_out(source, erased.until_each(users["user_id"].combine_chunks()))
    before = np.concatenate([[0], np.cumsum(mask)])
    offsets = load_array(source / "offsets.npy")
    lengths = before[offsets[1:]] - before[offsets[:-1]]
    users = users.filter(pa.array(lengths > 0))
    lengths = lengths[lengths > 0]
    seconds = load_array(source / "timestamps.npy")[mask]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    np.save(shard / "offsets.npy", starts)
    if (source / "sessions.npy").exists():
        sessions = load_array(source / "sessions.npy")[mask]
        np.save(shard / "sessions.npy", sessions - np.repeat(sessions[starts[:-1]], lengths).astype(sessions.dtype))
    else:  # without times: the place of each event in its sequence
        seconds = np.arange(len(seconds)) - np.repeat(starts[:-1], lengths)
    np.save(shard / "timestamps.npy", seconds)
    pq.write_table(users, shard / USERS, compression="zstd")
    used, item = np.unique(load_array(source / "items.npy")[mask], return_inverse=True)
    np.save(scratch / "items.npy", item.astype(np.int32))
    items = pq.read_table(data.path / ITEMS, columns=["item_id"]).take(pa.array(used - 1, pa.int64()))
    pq.write_table(items, scratch / ITEMS)
    num_of_type, num_amounts = _details(source, mask, names).write(scratch, np.arange(len(item)))
    first, last = (int(seconds.min()), int(seconds.max())) if len(seconds) else (NEVER, -NEVER)
    return Sorted(users.num_rows, len(item), 0, first, last, num_of_type, num_amounts)


def _left_out(shard: Path, until: npt.NDArray[np.float64]) -> Booleans:
    """Which events are left out, given until when each user is erased; all of an erased user in a log without times."""
    offsets = load_array(shard / "offsets.npy")
    until_of_event = np.repeat(until, np.diff(offsets))
    if not (shard / "sessions.npy").exists():
        return until_of_event > -FOREVER
    return np.asarray(load_array(shard / "timestamps.npy") < until_of_event)


def _details(source: Path, mask: Booleans, names: list[str]) -> Details:
    """Types and amounts of the events that are kept; the types of the partition have codes of their own."""
    num_events = int(mask.sum())
    codes = load_array(source / TYPES)[mask] if (source / TYPES).exists() else np.zeros(num_events, np.uint8)
    used = np.unique(codes[codes > 0])
    local = np.zeros(256, np.int64) - 1
    local[used] = np.arange(len(used))
    amounts = np.full(num_events, np.nan, np.float32)
    if (source / AMOUNTS).exists():
        amounts = load_array(source / AMOUNTS)[mask]
    return Details(tuple(names[code - 1] for code in used.tolist()), local[codes], amounts)


def _items_without_events(data: Prepared, table: pa.Table, *, is_separate: bool) -> pa.Array:
    """The items that stay in the vocabulary whoever had events with them: those of a separate item table."""
    had_events = np.zeros(table.num_rows + 1, bool)
    for shard in data.shards():
        had_events[load_array(shard / "items.npy", mmap=True)] = True
    is_kept = ~had_events[1:]
    if is_separate:
        for name in table.column_names[1:]:
            is_kept |= table[name].is_valid().to_numpy()
    return table["item_id"].combine_chunks().filter(pa.array(is_kept))


def _evaluated(before: Schema, types: LogTypes) -> Evaluated:
    targets = tuple(name for name in before.target_types if name in types.names)
    seen = before.seen_types
    return Evaluated(targets, None if seen is None else tuple(name for name in seen if name in types.names))


def _seconds(time: str | None) -> int | None:
    return None if time is None else epoch_s(time)


def _card(card: dict[str, Any], schema: Schema, parts: list[Sorted], finished: list[Sharded]) -> dict[str, Any]:
    """The counts that have changed, of those that the card has."""
    events, users = sums(part.num_events for part in finished), sums(part.num_users for part in finished)
    kept = sum(part.num_events for part in parts)
    left_out = card["bad"].get(REASON, 0) + card["kept"] - kept
    counts: dict[str, Any] = {
        "fingerprint": schema.fingerprint,
        "kept": kept,
        "bad": card["bad"] | {REASON: left_out},
        "users": sum(part.num_users for part in parts),
        "items": schema.num_items,
        "longest_history": max(part.longest for part in finished),
        "splits": {name: {"events": events[name], "users": users[name]} for name in events},
        "fold_in_events": sum(part.num_fold_in_events for part in finished),
        "examples": sums(part.num_examples for part in finished),
        "event_types": sums({k: n for k, n in part.num_of_type.items() if k} for part in parts),
    }
    return {name: value for name, value in counts.items() if name in card}


def _counted(card: dict[str, Any], num_quarantined: int) -> dict[str, Any]:
    """The card with the bad rows that were deleted from quarantine, and without values that may be an erased user's."""
    note = f"{card['bad'][REASON]:,} events of erased users were taken out of the prepared data"
    return {**card, "quarantined_rows_deleted": num_quarantined, "notes": [*card.get("notes", ()), note]}


ERASURE: Erasure[PrepareConfig, Schema] = Erasure(prepare=prepare, held=held, rewrite=rewrite)
