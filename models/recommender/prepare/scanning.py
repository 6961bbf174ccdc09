"""Finds and reads the raw log once: its good rows partitioned by user, its bad rows in quarantine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from models.erasure.erased import Erased
from models.errors import DataRejected
from models.raw.ids import id_text
from models.raw.notes import num_files, said_if_rejected
from models.raw.quarantine import check_bad, most_frequent
from models.raw.reading import item_reading_of, reading_of
from models.raw.remedies import explain
from models.raw.tables import Source, Tables, find_tables, parse_mapping, without_secrets
from models.raw.times import check_format, epoch_s
from models.recommender.prepare.events import COLUMNS, EXCLUDED, find_columns, remedy_of
from models.recommender.prepare.held_events import watermark
from models.recommender.prepare.identity import add_up, collect_logins, name_anonymous
from models.recommender.prepare.partitions import keep_one_of_each_event, scan
from models.recommender.prepare.scanned import Scan, Scanned
from models.recommender.prepare.sessions import gap_us
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import NUM_SHARDS

MAX_SCANS = 16


def find_raw(config: PrepareConfig) -> tuple[Tables, Tables]:
    """The files of the log and of the item table; validates all flags before anything is read."""
    reading, item_reading = reading_of(config, format=config.format), item_reading_of(config)
    parse_mapping(config.columns, names=COLUMNS)
    parse_mapping(config.item_columns)
    check_format(config.timestamp_format)
    gap_us(config.session_gap)
    if (config.val_from is None) != (config.test_from is None):
        raise ValueError("--val-from and --test-from belong together; give both or neither")
    if config.val_from and config.test_from and epoch_s(config.val_from) >= epoch_s(config.test_from):
        raise ValueError(f"--val-from {config.val_from} is not before --test-from {config.test_from}")
    if config.split != "time" and config.val_from:
        raise ValueError("--val-from and --test-from cut by time; use them with --split time")
    tables = find_tables(config.raw, reading)
    if tables.sources[0].format == "sequences" and config.split == "time":
        raise DataRejected(
            f"{without_secrets(config.raw)} holds sequences, which have no times to split by; use --split leave-one-out"
        )
    return tables, find_tables(config.items, item_reading) if config.items is not None else Tables([], {})


def scan_log(config: PrepareConfig, sources: list[Source], out: Path, executor: Executor, *, erased: Erased) -> Scanned:
    """Read the log once, partition its good rows by user, and deduplicate by event_id; without erased users."""
    scanned = _merged(executor.map(scan, _scans(config, sources, out, erased=erased)))
    with said_if_rejected(inferred(scanned)):
        if scanned.json_names:
            find_columns(scanned.json_names, parse_mapping(config.columns), source=without_secrets(config.raw))
        _check_bad_rows(scanned, config)
        scanned.watermark = watermark(sources, scanned.held, accept_gaps=config.accept_gaps)
    if scanned.num_with_event_id:
        keep_one = partial(keep_one_of_each_event, out / "work")
        for num_repeated, num_anonymous in executor.map(keep_one, range(NUM_SHARDS)):
            scanned.num_repeated += num_repeated
            scanned.num_anonymous += num_anonymous
    if scanned.num_anonymous:
        list(executor.map(partial(collect_logins, out / "work"), range(NUM_SHARDS)))
        named = partial(name_anonymous, out / "work", erased=erased)
        scanned.named = add_up(executor.map(named, range(NUM_SHARDS)))
        scanned.num_erased += scanned.num_anonymous - scanned.named.stitched_events - scanned.named.events
    return scanned


def inferred(scanned: Scanned) -> list[str]:
    """What was inferred about the files, such as that they have no header, in words."""
    return [f"{note} ({num_files(count)})" for note, count in scanned.notes.items()]


def explained(scanned: Scanned) -> dict[str, str]:
    """The most frequent reasons of bad rows, with an example and, where there is one, the remedy."""
    examples, samples = scanned.examples, scanned.samples
    return {
        reason: explain(reason, examples.get(reason), samples.get(reason, ()), remedy=remedy_of(reason))
        for reason, _ in most_frequent(_bad(scanned))
    }


def excluded_items(config: PrepareConfig) -> frozenset[str]:
    """The ids of --exclude-items in the form of the log."""
    return frozenset(str(id_text(item)) for item in config.exclude_items)


def _scans(config: PrepareConfig, sources: list[Source], out: Path, *, erased: Erased) -> list[Scan]:
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
            excluded=excluded_items(config),
            now_s=time.time(),
            out=out,
            timestamp_format=config.timestamp_format,
            erased=erased,
        )
        for number, group in enumerate(groups.values())
    ]


def _merged(parts: Iterable[Scanned]) -> Scanned:
    whole = Scanned()
    for part in parts:
        whole.num_rows += part.num_rows
        whole.num_with_event_id += part.num_with_event_id
        whole.num_anonymous += part.num_anonymous
        whole.num_erased += part.num_erased
        whole.json_names = list(dict.fromkeys([*whole.json_names, *part.json_names]))
        for reason, count in part.bad.items():
            whole.bad[reason] = whole.bad.get(reason, 0) + count
        whole.examples = {**part.examples, **whole.examples}
        for note, count in part.notes.items():
            whole.notes[note] = whole.notes.get(note, 0) + count
        whole.add_samples(part.samples)
        whole.held.merge(part.held)
    whole.bad = dict(sorted(whole.bad.items()))
    return whole


def _check_bad_rows(scanned: Scanned, config: PrepareConfig) -> None:
    raw = without_secrets(config.raw)
    if scanned.num_rows == 0 and scanned.num_erased:
        raise DataRejected(f"{raw}: all {scanned.num_erased:,} rows are of erased users")
    if scanned.num_rows == 0:
        raise DataRejected(f"{raw} is empty: it has no events")
    num_excluded = scanned.bad.get(EXCLUDED, 0)
    if num_excluded == scanned.num_rows:
        raise DataRejected(f"{raw}: all rows are of items in --exclude-items")
    check_bad(
        raw,
        _bad(scanned),
        total=scanned.num_rows,
        max_fraction=config.max_bad_fraction,
        explained=explained(scanned),
        num_skipped=num_excluded,
    )


def _bad(scanned: Scanned) -> dict[str, int]:
    """The bad rows by reason; those of items in --exclude-items are not bad."""
    return {reason: count for reason, count in scanned.bad.items() if reason != EXCLUDED}
