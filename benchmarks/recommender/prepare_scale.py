"""Speed and memory of `prepare` by the number of events, on synthetic logs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

import jobs.prepare
from jobs.cli.context import Context, Store
from models import FAMILIES

BATCH_EVENTS = 1_000_000
EVENTS_PER_USER = 20
NUM_ITEMS = 100_000
FIRST_S = 1_700_000_000
SPAN_S = 365 * 86_400


def main() -> None:
    """Prepare a log of each size in a process of its own and print one JSON line each, then the slope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10, 50], help="events, in millions")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--event-ids", action="store_true", help="give every event an event_id, 1 %% of them repeated")
    parser.add_argument("--directory", help="where to make the temporary directory; by default where the system does")
    arguments = parser.parse_args()
    results = []
    for millions in arguments.millions:
        with tempfile.TemporaryDirectory(prefix="prepare-scale-", dir=arguments.directory) as folder:
            raw = write_log(
                Path(folder) / "log", int(millions * 1e6), format=arguments.format, has_event_ids=arguments.event_ids
            )
            results.append(measured(raw, Path(folder) / "store"))
            print(json.dumps(results[-1]), flush=True)
    if len(results) > 1:
        events, seconds = ([result[name] for result in results] for name in ("rows", "seconds"))
        print(json.dumps({"slope": round(float(np.polyfit(np.log(events), np.log(seconds), 1)[0]), 3)}))


def write_log(folder: Path, num_events: int, *, format: str, has_event_ids: bool) -> Path:
    """Popular and rare items, active and idle users, a year; one file per BATCH_EVENTS events."""
    folder.mkdir(parents=True)
    num_users = max(num_events // EVENTS_PER_USER, 2)
    for number in range(-(-num_events // BATCH_EVENTS)):
        draw = np.random.default_rng(number)
        size = min(BATCH_EVENTS, num_events - number * BATCH_EVENTS)
        table = pa.table(
            {
                "user_id": _named("user", (num_users * draw.random(size) ** 1.5).astype(np.int64)),
                "item_id": _named("item", (NUM_ITEMS * draw.random(size) ** 3).astype(np.int64)),
                "timestamp": pa.array(FIRST_S + draw.integers(0, SPAN_S, size), pa.timestamp("s")),
                "price": np.round(draw.lognormal(2.0, 1.0, size), 2),
            }
        )
        if has_event_ids:
            places = np.arange(size) + number * BATCH_EVENTS
            repeated = draw.random(size) < 0.01
            table = table.append_column("event_id", _named("event", np.where(repeated, places // 2, places)))
        if format == "csv":
            pyarrow.csv.write_csv(table, folder / f"{number:05d}.csv")
        else:
            pq.write_table(table, folder / f"{number:05d}.parquet")
    return folder


def measured(raw: Path, root: Path) -> dict[str, Any]:
    """Rows per second, peak memory and peak disk of one `prepare` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_prepare, args=(sender, str(raw), str(root)))
    process.start()
    result: dict[str, Any] = receiver.recv()
    process.join()
    return result


def _prepare(sender: Any, raw: str, root: str) -> None:
    family = FAMILIES["recommender"]
    at_start_mb = _peak_mb()
    done, peak_disk = threading.Event(), [0]
    watch = threading.Thread(target=_watch_disk, args=(Path(root), done, peak_disk))
    watch.start()
    started = time.monotonic()
    context = Context(store=Store(Path(root)))
    outcome = jobs.prepare.run(context, family, jobs.prepare.Options(), family.PrepareConfig(raw=raw))
    seconds = time.monotonic() - started
    done.set()
    watch.join()
    sender.send(
        {
            "rows": outcome.details["rows"],
            "kept": outcome.details["kept"],
            "duplicates": outcome.details["duplicates"],
            "users": outcome.details["users"],
            "seconds": round(seconds, 2),
            "rows_per_second": round(outcome.details["rows"] / seconds),
            "peak_rss_mb": _peak_mb(),
            "rss_at_start_mb": at_start_mb,
            "peak_disk_mb": round(peak_disk[0] / 1e6),
            "raw_mb": round(sum(path.stat().st_size for path in Path(raw).iterdir()) / 1e6),
            "cpus": os.cpu_count(),
        }
    )


def _watch_disk(root: Path, done: threading.Event, peak: list[int]) -> None:
    while not done.wait(1.0):
        if root.is_dir():
            peak[0] = max(peak[0], _bytes_below(root))


def _bytes_below(root: Path) -> int:
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += (Path(directory) / name).stat().st_size
            except FileNotFoundError:  # it was there a moment ago
                continue
    return total


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _named(prefix: str, numbers: np.ndarray[Any, Any]) -> pa.Array:
    return pa.array(np.char.add(prefix, np.char.zfill(numbers.astype("U10"), 8)))


if __name__ == "__main__":
    main()
