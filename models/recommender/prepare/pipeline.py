"""From a raw behaviour log to prepared data: validated, deduplicated, split, sharded by user, fingerprinted."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveInt

from models.errors import DataRejected
from models.raw.quarantine import Quarantine, remedy
from models.raw.tables import Format, Source, find, parse_mapping, without_secrets
from models.recommender.networks.event_weights import default_weights, shown_weights
from models.recommender.networks.item_features import read_features
from models.recommender.prepare.diagnosis import diagnose, in_schema
from models.recommender.prepare.event_types import (
    Evaluated,
    LogTypes,
    choose_evaluated,
    types_in_card,
    types_in_schema,
)
from models.recommender.prepare.events import COLUMNS, explain, find_columns
from models.recommender.prepare.identity import add_up, collect_logins, name_anonymous
from models.recommender.prepare.item_table import read_item_ids, read_items
from models.recommender.prepare.leaving_out import LeftOut, Partitions, leave_out
from models.recommender.prepare.partitions import (
    STOP,
    Int64s,
    Rules,
    Scan,
    Scanned,
    Sharded,
    Sorted,
    count_examples,
    keep_one_of_each_event,
    scan,
    sort_partition,
    write_shard,
)
from models.recommender.prepare.selection import NEVER
from models.recommender.prepare.sessions import gap_us
from models.recommender.prepare.splits import Cut, check_splits, choose_cut, rfc3339
from models.recommender.prepare.support import Support
from models.recommender.prepare.vocabulary import check_enough, index_items
from models.recommender.schema import NUM_SHARDS, Schema, Split
from models.settings import Share, check_settings

LAYOUT = 4
"""Part of the fingerprint; incremented when the files or a rule of this package change."""
MAX_SCANS = 16


@dataclass(frozen=True)
class PrepareConfig:
    """The raw data to read, the names of its columns, and how to split it."""

    raw: str
    """Event log: a file, a folder, or a URI such as s3://bucket/path; may be gzipped."""
    columns: str = ""
    """Column names of the log, e.g. user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate,price=UnitPrice."""
    format: Format = "auto"
    """File format; auto goes by the file extension. Sequences (.txt) are lines `user item` or `user item item ...`."""
    items: str | None = None
    """Item table: title, category, price or any other attribute; may be the log itself. Attributes improve the ranking
    of rare items, and allow items without events to be recommended, unless the table is the log."""
    item_columns: str = ""
    """Column names of the item table, e.g. item_id=StockCode,title=Description; by default all columns are used."""
    split: Split = "time"
    """time: test on the last events by global time; leave-one-out: test on the last event of each user, validate on the
    one before; held-out-users: test on the last fifth of the events of users who are not trained on."""
    val_from: str | None = None
    """Time of the first validation event (RFC 3339, UTC if it has no zone); by default after 80 % of the events."""
    test_from: str | None = None
    """Time of the first test event; by default after 90 % of the events."""
    target: tuple[str, ...] = ()
    """Event types to evaluate on and to recommend for, e.g. purchase, or all. By default purchases, by the name of the
    type, if there are enough; else additions to a cart; else all."""
    seen: tuple[str, ...] = ()
    """Event types that make an item seen, so that it is not recommended again; all; or none, so that repeated items
    count. By default those of --target and purchases."""
    max_bad_fraction: Share = 0.01
    """Reject the log when a larger share of its rows is bad; rows of excluded items do not count."""
    exclude_items: tuple[str, ...] = ()
    """Item ids that are not products, such as the service codes POST,DOT; their rows are quarantined."""
    session_gap: str = "30m"
    """Pause after which a user's next event begins a new session, where no session_id is mapped: 45s, 30m, 2h."""
    collapse_repeats: bool = False
    """Keep the first of events in a row with the same user, item and event type in a session, such as reloads."""
    keep_bots: bool = False
    """Keep the users who act faster than people do; by default their events are quarantined as likely_bot."""
    min_item_events: PositiveInt = 1
    """Leave out the events of items with fewer than this many, again and again together with --min-user-events."""
    min_user_events: PositiveInt = 1
    """Leave out the events of users with fewer than this many; an anonymous session is a user."""

    def __post_init__(self) -> None:
        check_settings(self)


def prepare(config: PrepareConfig, out: Path, executor: Executor) -> Schema:
    """Fill the empty directory `out` from the raw log; raises DataRejected for bad data, ValueError for bad flags.

    The files depend only on the set of good rows. Rows with the same event_id are duplicates (the smallest by user,
    time, session and item is kept); without event_id, so are rows that agree in all mapped columns. Sequences have no
    duplicates. A user's events are ordered by time, then session; those of one moment and session, such as a basket,
    by a hash, since an order by item id would be meaningless and yet learned. The vocabulary is all items with events
    or in a separate item table, in ascending order of item id.
    """
    sources, item_sources = _sources(config)
    has_times = sources[0].format != "sequences"
    work, shards = out / "work", out / "shards"
    for directory in (work, shards, out / "quarantine"):
        directory.mkdir(parents=True)
    try:
        scanned = _scanned(config, sources, out, executor)
        parts, left_out = _sorted(config, Partitions(out, has_times), executor)
        vocabulary = _vocabulary(config, work, item_sources, parts)
        types = LogTypes.of([(part.num_of_type, part.num_amounts) for part in parts])
        cut, evaluated = _evaluated(config, _cut(config, parts, shards), types, parts, (work, shards, executor))
        write = partial(write_shard, work, shards, num_items=len(vocabulary), cut=cut, log_types=types)
        finished = list(executor.map(write, enumerate(parts)))
        check_splits(_sums(part.num_events for part in finished), _sums(part.num_examples for part in finished), cut)
        diagnosis = diagnose(shards, executor, num_items=len(vocabulary), has_times=has_times, type_names=types.names)
        table, bad_items = _items(config, item_sources, out, vocabulary=vocabulary)
    except BaseException:
        (work / STOP).touch()
        raise
    pq.write_table(table, out / "items.parquet", compression="zstd")
    features = read_features(table)
    features.save(out)
    about = types_in_schema(types, evaluated, [part.num_of_type for part in finished]) | in_schema(diagnosis)
    num_features = len(features.names)
    schema = _schema(config, cut, finished, table=table, has_times=has_times, num_features=num_features, types=about)
    card = {**_card(config, schema, scanned, parts, finished), **_card_of_types(types, evaluated, schema, finished)}
    card = left_out.added_to(card, parts, diagnosis, bad_items)
    (out / "schema.json").write_text(schema.model_dump_json(), encoding="utf-8")
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(work)
    return schema


def _sources(config: PrepareConfig) -> tuple[list[Source], list[Source]]:
    """The files of the log and of the item table; validates all flags before anything is read."""
    parse_mapping(config.columns, names=COLUMNS)
    parse_mapping(config.item_columns)
    gap_us(config.session_gap)
    if (config.val_from is None) != (config.test_from is None):
        raise ValueError("--val-from and --test-from belong together; give both or neither")
    if config.val_from and config.test_from and _epoch_s(config.val_from) >= _epoch_s(config.test_from):
        raise ValueError(f"--val-from {config.val_from} is not before --test-from {config.test_from}")
    if config.split != "time" and config.val_from:
        raise ValueError("--val-from and --test-from cut by time; use them with --split time")
    sources = find(config.raw, format=config.format)
    num_sequences = sum(source.format == "sequences" for source in sources)
    if num_sequences not in (0, len(sources)):
        raise DataRejected(
            f"{without_secrets(config.raw)} mixes sequence files with tables; prepare one kind, or set --format"
        )
    if num_sequences and config.split == "time":
        raise DataRejected(
            f"{without_secrets(config.raw)} holds sequences, which have no times to split by; use --split leave-one-out"
        )
    return sources, find(config.items) if config.items is not None else []


def _scanned(config: PrepareConfig, sources: list[Source], out: Path, executor: Executor) -> Scanned:
    """Read the log once, partition its good rows by user, and deduplicate by event_id."""
    scanned = _merge(executor.map(scan, _scans(config, sources, out)))
    if scanned.json_names:
        find_columns(scanned.json_names, parse_mapping(config.columns), source=without_secrets(config.raw))
    _check_bad_rows(scanned, config)
    if scanned.num_with_event_id:
        keep_one = partial(keep_one_of_each_event, out / "work")
        for num_repeated, num_anonymous in executor.map(keep_one, range(NUM_SHARDS)):
            scanned.num_repeated += num_repeated
            scanned.num_anonymous += num_anonymous
    if scanned.num_anonymous:
        list(executor.map(partial(collect_logins, out / "work"), range(NUM_SHARDS)))
        scanned.named = add_up(executor.map(partial(name_anonymous, out / "work"), range(NUM_SHARDS)))
    return scanned


def _sorted(config: PrepareConfig, partitions: Partitions, executor: Executor) -> tuple[list[Sorted], LeftOut]:
    """Sort all partitions, and leave out what should not be learned from."""
    rules = Rules(partitions.has_times, gap_us(config.session_gap), config.collapse_repeats)
    sort = partial(sort_partition, partitions.work, partitions.shards, rules=rules)
    return leave_out(
        partitions,
        list(executor.map(sort, range(NUM_SHARDS))),
        executor,
        keep_bots=config.keep_bots,
        support=Support(config.min_item_events, config.min_user_events),
        source=without_secrets(config.raw),
    )


def _scans(config: PrepareConfig, sources: list[Source], out: Path) -> list[Scan]:
    """Up to MAX_SCANS tasks of consecutive files with about the same number of bytes."""
    total = sum(source.num_bytes for source in sources) or 1
    groups: dict[int, list[tuple[int, Source]]] = {}
    before = 0
    for number, source in enumerate(sources):
        groups.setdefault(before * MAX_SCANS // total, []).append((number, source))
        before += source.num_bytes
    return [
        Scan(
            number=number,
            sources=tuple(group),
            columns=parse_mapping(config.columns),
            excluded=frozenset(config.exclude_items),
            now_s=time.time(),
            out=out,
        )
        for number, group in enumerate(groups.values())
    ]


def _merge(parts: Iterable[Scanned]) -> Scanned:
    whole = Scanned()
    for part in parts:
        whole.num_rows += part.num_rows
        whole.num_with_event_id += part.num_with_event_id
        whole.num_anonymous += part.num_anonymous
        whole.json_names = list(dict.fromkeys([*whole.json_names, *part.json_names]))
        for reason, count in part.bad.items():
            whole.bad[reason] = whole.bad.get(reason, 0) + count
        whole.examples = {**part.examples, **whole.examples}
    whole.bad = dict(sorted(whole.bad.items()))
    return whole


def _check_bad_rows(scanned: Scanned, config: PrepareConfig) -> None:
    if scanned.num_rows == 0:
        raise DataRejected(f"{without_secrets(config.raw)} is empty: it has no events")
    bad = {reason: count for reason, count in scanned.bad.items() if reason != "excluded_item"}
    fraction = sum(bad.values()) / scanned.num_rows
    if fraction <= config.max_bad_fraction and sum(scanned.bad.values()) < scanned.num_rows:
        return
    top = sorted(bad, key=lambda reason: -bad[reason])[:3]
    reasons = "; ".join(f"{bad[reason]:,} {explain(reason, scanned.examples.get(reason))}" for reason in top)
    if not bad:
        raise DataRejected(f"{without_secrets(config.raw)}: all rows are of items in --exclude-items")
    raise DataRejected(
        f"{without_secrets(config.raw)}: {sum(bad.values()):,} of {scanned.num_rows:,} rows ({fraction:.1%}) are bad, "
        f"more than --max-bad-fraction {config.max_bad_fraction:g} allows: {reasons}. To continue, "
        f"{remedy(fraction, is_any_good=sum(scanned.bad.values()) < scanned.num_rows)}"
    )


def _vocabulary(config: PrepareConfig, work: Path, sources: list[Source], parts: list[Sorted]) -> pa.Array:
    """All items with events, and those of an item table that is not the log itself."""
    without_events = pa.array([], pa.string())
    if config.items != config.raw:
        columns = parse_mapping(config.item_columns)
        without_events = read_item_ids(sources, columns=columns, excluded=config.exclude_items)
    vocabulary = index_items(work, without_events)
    check_enough(sum(part.num_users for part in parts), vocabulary)
    return vocabulary


def _cut(config: PrepareConfig, parts: list[Sorted], shards: Path) -> Cut:
    """The split, with the given cut times or those chosen by the log."""
    if config.split == "time" and config.val_from is not None and config.test_from is not None:
        return Cut("time", _epoch_s(config.val_from), _epoch_s(config.test_from))
    return choose_cut(config.split, shards, min(part.first_s for part in parts), max(part.last_s for part in parts))


def _evaluated(
    config: PrepareConfig, cut: Cut, types: LogTypes, parts: list[Sorted], where: tuple[Path, Path, Executor]
) -> tuple[Cut, Evaluated]:
    """What is evaluated on, and the split with these targets."""
    work, shards, executor = where

    def num_examples(names: tuple[str, ...]) -> dict[str, int]:
        count = partial(count_examples, work, shards, cut=replace(cut, targets=types.codes_of(names)), log_types=types)
        return _sums(executor.map(count, enumerate(parts)))

    evaluated = choose_evaluated(types, target=config.target, seen=config.seen, num_examples=num_examples)
    return replace(cut, targets=types.codes_of(evaluated.targets)), evaluated


def _items(
    config: PrepareConfig, sources: list[Source], out: Path, *, vocabulary: pa.Array
) -> tuple[pa.Table, dict[str, int]]:
    """The vocabulary with its attributes, and the bad rows of the item table by reason."""
    with Quarantine(out / "quarantine" / "items.parquet") as quarantine:
        columns = parse_mapping(config.item_columns)
        table = read_items(sources, columns=columns, vocabulary=vocabulary, quarantine=quarantine)
    return table, quarantine.counts


def _schema(
    config: PrepareConfig,
    cut: Cut,
    finished: list[Sharded],
    *,
    table: pa.Table,
    has_times: bool,
    num_features: int,
    types: dict[str, Any],
) -> Schema:
    counts: Int64s = np.sum([part.train_counts for part in finished], axis=0)
    first: Int64s = np.min([part.train_first_s for part in finished], axis=0)
    rule = {
        "layout": LAYOUT,
        "split": config.split,
        "val_from_s": cut.val_from_s,
        "test_from_s": cut.test_from_s,
        "items": table.to_pydict(),
        "shards": [part.digest for part in finished],
        **types,
    }
    return Schema(
        family="recommender",
        fingerprint=hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest(),
        num_shards=NUM_SHARDS,
        num_examples={
            "train": sum(part.num_events["train"] for part in finished),
            **_sums(part.num_examples for part in finished),
        },
        split=config.split,
        items=table["item_id"].to_pylist(),
        item_counts=counts.tolist(),
        item_first_seen=np.where(first == NEVER, 0, first).tolist(),
        num_features=num_features,
        train_until=max(part.train_last_s if has_times else part.longest for part in finished),
        val_from=None if cut.val_from_s is None else rfc3339(cut.val_from_s),
        test_from=None if cut.test_from_s is None else rfc3339(cut.test_from_s),
        **types,
    )


def _card(
    config: PrepareConfig, schema: Schema, scanned: Scanned, parts: list[Sorted], finished: list[Sharded]
) -> dict[str, Any]:
    events, users = (
        _sums(part.num_events for part in finished),
        _sums(part.num_users for part in finished),
    )
    fold_in = sum(part.num_fold_in_events for part in finished)
    return {
        "family": "recommender",
        "fingerprint": schema.fingerprint,
        "raw": without_secrets(config.raw),
        "rows": scanned.num_rows,
        "kept": sum(part.num_events for part in parts),
        "duplicates": scanned.num_repeated + sum(part.num_duplicates for part in parts),
        "bad": scanned.bad,
        "users": sum(part.num_users for part in parts),
        "items": schema.num_items,
        "anonymous": vars(scanned.named),
        "longest_history": max(part.longest for part in finished),
        "split": config.split,
        "val_from": schema.val_from,
        "test_from": schema.test_from,
        "splits": {name: {"events": events[name], "users": users[name]} for name in events},
        **({"fold_in_events": fold_in} if schema.split == "held-out-users" else {}),
    }


def _card_of_types(types: LogTypes, evaluated: Evaluated, schema: Schema, finished: list[Sharded]) -> dict[str, Any]:
    """What the card says of event types; nothing for a log without."""
    if not types.names:
        return {}
    users, examples = _sums(part.num_users for part in finished), _sums(part.num_examples for part in finished)
    weights = shown_weights(default_weights(schema), schema)
    card = types_in_card(types, evaluated, examples, weights=weights)
    return {**card, "users_without_target": {name: users[name] - count for name, count in examples.items()}}


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _epoch_s(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write RFC 3339 such as 2024-05-01T00:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
