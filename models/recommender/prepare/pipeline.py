"""From a raw behaviour log to prepared data: validated, deduplicated, split, sharded by user, fingerprinted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.erasure.erased import NOBODY, Erased
from models.prepared import CARD, SCHEMA
from models.raw.notes import said_if_rejected
from models.raw.quarantine import Quarantine
from models.raw.tables import Source, parse_mapping, without_secrets
from models.raw.times import epoch_s
from models.recommender.item_features import read_features
from models.recommender.prepare.card import card_of, card_of_files, card_of_types, notes_of, sums
from models.recommender.prepare.diagnosis import diagnose, in_schema
from models.recommender.prepare.erased_rows import without_erased
from models.recommender.prepare.event_types import Evaluated, LogTypes, choose_evaluated, types_in_schema
from models.recommender.prepare.item_table import join_items, read_item_ids, read_items, written_at_s
from models.recommender.prepare.leaving_out import LeftOut, leave_out
from models.recommender.prepare.partitions import (
    NEVER,
    STOP,
    Int64s,
    Rules,
    Sharded,
    Sorted,
    count_examples,
    sort_partition,
    write_shard,
)
from models.recommender.prepare.scanning import excluded_items, find_raw, scan_log
from models.recommender.prepare.sessions import gap_us
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.prepare.splits import Cut, check_splits, choose_cut, rfc3339
from models.recommender.prepare.vocabulary import check_enough, index_items, items_of_partitions
from models.recommender.schema import NUM_SHARDS, Schema, Split

LAYOUT = 4
"""Part of the fingerprint; incremented when the files or a rule of this package change."""


def prepare(config: PrepareConfig, out: Path, executor: Executor, erased: Erased = NOBODY) -> Schema:
    """Fill the empty directory `out` from the raw log; raises DataRejected for bad data, ValueError for bad flags.

    The files depend only on the set of good rows. Rows with the same event_id are duplicates (the smallest by user,
    time, session and item is kept); without event_id, so are rows that agree in all mapped columns. Sequences have no
    duplicates. A user's events are ordered by time, then session; those of one moment and session, such as a basket,
    by a hash, since an order by item id would be meaningless and yet learned. The vocabulary is all items with events
    or in a separate item table, in ascending order of item id.
    """
    tables, item_tables = find_raw(config)
    has_times = tables.sources[0].format != "sequences"
    work, shards = out / "work", out / "shards"
    for directory in (work, shards, out / "quarantine"):
        directory.mkdir(parents=True)
    notes = [*tables.notes(config.raw), *item_tables.notes(config.items or "")]
    with said_if_rejected(notes), _workers_stopped(work):
        scanned = scan_log(config, tables.sources, out, executor, erased=erased)
        parts, left_out = _sorted(config, out, executor, has_times=has_times)
        vocabulary, join = _vocabulary(config, work, item_tables.sources, parts)
        types = LogTypes.of([(part.num_of_type, part.num_amounts) for part in parts])
        cut, evaluated = _split(config, types, parts, out, executor)
        write = partial(write_shard, work, shards, num_items=len(vocabulary), cut=cut, log_types=types)
        finished = list(executor.map(write, enumerate(parts)))
        check_splits(sums(part.num_events for part in finished), sums(part.num_examples for part in finished), cut)
        diagnosis = diagnose(shards, executor, num_items=len(vocabulary), type_names=types.names)
        table, items_card = _items(config, item_tables.sources, out, vocabulary=vocabulary, erased=erased)
    about = types_in_schema(types, evaluated, [part.num_of_type for part in finished]) | in_schema(diagnosis)
    num_features = write_items(table, out)
    schema = schema_of(
        config.split, cut, finished, table=table, has_times=has_times, num_features=num_features, about=about
    )
    schema = schema.model_copy(update={"events_until": dict(scanned.watermark.events_until)})
    card = card_of(config, schema, scanned, parts, finished=finished, left_out=left_out)
    card["bad"] |= items_card.pop("bad")
    card |= {"diagnosis": diagnosis, **card_of_types(types, evaluated, schema, finished), **join, **items_card}
    card |= {"notes": notes_of(card, scanned, notes), **card_of_files(tables, item_tables)}
    (out / SCHEMA).write_text(schema.model_dump_json(), encoding="utf-8")
    (out / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(work)
    return schema


@contextmanager
def _workers_stopped(work: Path) -> Iterator[None]:
    """Stop the tasks that other workers still run if one fails."""
    try:
        yield
    except BaseException:
        (work / STOP).touch()
        raise


def _sorted(config: PrepareConfig, out: Path, executor: Executor, *, has_times: bool) -> tuple[list[Sorted], LeftOut]:
    """Sort all partitions, and leave out what should not be learned from."""
    rules = Rules(has_times, gap_us(config.session_gap), config.collapse_repeats)
    sort = partial(sort_partition, out / "work", out / "shards", rules=rules)
    return leave_out(config, list(executor.map(sort, range(NUM_SHARDS))), out, executor)


def _vocabulary(
    config: PrepareConfig, work: Path, sources: list[Source], parts: list[Sorted]
) -> tuple[pa.Array, dict[str, Any]]:
    """All items with events, and those of an item table that is not the log itself; and what the card says of both."""
    table_items, join = pa.array([], pa.string()), {}
    if config.items is not None and config.items != config.raw:
        columns = parse_mapping(config.item_columns)
        table_items = read_item_ids(sources, columns=columns, excluded=excluded_items(config))
        join = join_items(items_of_partitions(work), table_items, table=without_secrets(config.items))
    vocabulary = index_items(work, table_items)
    check_enough(sum(part.num_users for part in parts), sum(part.num_events for part in parts), vocabulary)
    return vocabulary, join


def _split(
    config: PrepareConfig, types: LogTypes, parts: list[Sorted], out: Path, executor: Executor
) -> tuple[Cut, Evaluated]:
    """The split, with the given cut times or those chosen by the log, and what is evaluated on."""
    if config.split == "time" and config.val_from is not None and config.test_from is not None:
        cut = Cut("time", epoch_s(config.val_from), epoch_s(config.test_from))
    else:
        first, last = min(part.first_s for part in parts), max(part.last_s for part in parts)
        cut = choose_cut(config.split, out / "shards", first, last)

    def with_targets(names: tuple[str, ...]) -> Cut:
        return replace(cut, targets=types.codes_of(names))

    def num_examples(names: tuple[str, ...]) -> dict[str, int]:
        count = partial(count_examples, out / "work", out / "shards", cut=with_targets(names), log_types=types)
        return sums(executor.map(count, enumerate(parts)))

    evaluated = choose_evaluated(types, target=config.target, seen=config.seen, num_examples=num_examples)
    return with_targets(evaluated.targets), evaluated


def _items(
    config: PrepareConfig, sources: list[Source], out: Path, *, vocabulary: pa.Array, erased: Erased
) -> tuple[pa.Table, dict[str, Any]]:
    """The vocabulary with its attributes, and what the card says of the item table: bad rows, columns left out."""
    with Quarantine(out / "quarantine" / "items.parquet") as quarantine:
        columns = parse_mapping(config.item_columns)
        is_log = config.items == config.raw
        keep = partial(without_erased, columns=parse_mapping(config.columns), erased=erased) if is_log else None
        table, left_out = read_items(
            sources, columns=columns, vocabulary=vocabulary, quarantine=quarantine, keep=keep if erased else None
        )
    written = {"items_as_of_s": written_at_s(sources)} if sources else {}
    return table, {"bad": quarantine.counts, **written, **({"item_columns_left_out": left_out} if left_out else {})}


def write_items(table: pa.Table, out: Path) -> int:
    """Write the items with their attributes, and the features made of these; returns the number of features."""
    pq.write_table(table, out / "items.parquet", compression="zstd")
    features = read_features(table)
    features.save(out)
    return len(features.names)


def schema_of(
    split: Split,
    cut: Cut,
    finished: list[Sharded],
    *,
    table: pa.Table,
    has_times: bool,
    num_features: int,
    about: dict[str, Any],
) -> Schema:
    """The schema; `about` are fields of it that follow from the events and the flags."""
    counts: Int64s = np.sum([part.train_counts for part in finished], axis=0)
    first: Int64s = np.min([part.train_first_s for part in finished], axis=0)
    rule = {
        "layout": LAYOUT,
        "split": split,
        "val_from_s": cut.val_from_s,
        "test_from_s": cut.test_from_s,
        "items": table.to_pydict(),
        "shards": [part.digest for part in finished],
        **about,
    }
    return Schema(
        family="recommender",
        fingerprint=hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest(),
        num_shards=NUM_SHARDS,
        num_examples={
            "train": sum(part.num_events["train"] for part in finished),
            **sums(part.num_examples for part in finished),
        },
        split=split,
        items=table["item_id"].to_pylist(),
        item_counts=counts.tolist(),
        item_first_seen=np.where(first == NEVER, 0, first).tolist(),
        train_until=max(part.train_last_s if has_times else part.longest for part in finished),
        val_from=None if cut.val_from_s is None else rfc3339(cut.val_from_s),
        test_from=None if cut.test_from_s is None else rfc3339(cut.test_from_s),
        num_features=num_features,
        **about,
    )
