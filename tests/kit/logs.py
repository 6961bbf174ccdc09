"""Synthetic behaviour logs for the tests of prepare: written in any layout, prepared, and read back."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import jobs.prepare
from jobs.cli.context import Context, Outcome, Store
from models import FAMILIES
from models.prepared import Prepared
from models.recommender.prepare.settings import PrepareConfig

RECOMMENDER = FAMILIES["recommender"]
KINDS = ("tea", "tools", "toys", "towels")
ITEMS_OF_KIND = 9
"""Items per kind; the last of each kind is a cold-start item, without events."""
Row = dict[str, Any]


def make_log(num_events: int = 600, *, seed: int = 0) -> list[Row]:
    """Events of 30 users and 12 items over 60 days, in random order; some have the same time."""
    draw = random.Random(seed)
    rows = [
        {
            "user_id": f"u{draw.randrange(30)}",
            "item_id": f"i{draw.randrange(12)}",
            "timestamp": f"2024-{draw.randrange(3, 5):02d}-{draw.randrange(1, 31):02d} {draw.randrange(24):02d}:00:00",
            "price": f"{draw.randrange(1000) / 100}",
        }
        for _ in range(num_events)
    ]
    draw.shuffle(rows)
    return rows


def shop_of_kinds(directory: Path) -> Prepared:
    """The prepared log of a shop where each user buys items of one kind, which the item table gives."""
    draw = random.Random(0)
    items = [{"item_id": f"{kind}{place}", "kind": [kind]} for kind in KINDS for place in range(ITEMS_OF_KIND)]
    lines = []
    for user in range(300):
        kind = draw.choice(KINDS)
        lines.append(" ".join([f"u{user}", *(f"{kind}{draw.randrange(ITEMS_OF_KIND - 1)}" for _ in range(6))]))
    (directory / "log.txt").write_text("\n".join(lines))
    (directory / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    store = Store(directory / "store")
    return prepared(store, directory / "log.txt", items=str(directory / "items.jsonl"), split="leave-one-out")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table, gzipped if the name ends in .gz; missing values are empty."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    content = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def prepare(store: Store, config: PrepareConfig, *, is_dry_run: bool = False) -> Outcome:
    """Run the verb locally."""
    return jobs.prepare.run(Context(store=store, dry_run=is_dry_run), RECOMMENDER, jobs.prepare.Options(), config)


def prepared(store: Store, raw: Path, **settings: Any) -> Prepared:
    """The data prepared from a log; `settings` are fields of PrepareConfig."""
    return Prepared(Path(prepare(store, PrepareConfig(raw=str(raw), **settings)).details["data"]))


def histories(data: Prepared) -> dict[str, list[tuple[str, int]]]:
    """user -> (item, time) in order, read back from the shards."""
    items = pq.read_table(data.path / "items.parquet")["item_id"].to_pylist()
    found: dict[str, list[tuple[str, int]]] = {}
    for shard in data.shards():
        events, times, offsets = (np.load(shard / f"{name}.npy") for name in ("items", "timestamps", "offsets"))
        for place, user in enumerate(pq.read_table(shard / "users.parquet")["user_id"].to_pylist()):
            span = slice(offsets[place], offsets[place + 1])
            found[user] = [(items[i - 1], t) for i, t in zip(events[span].tolist(), times[span].tolist(), strict=True)]
    return found


def quarantined(data: Prepared) -> list[Row]:
    """The bad rows, in the order of the log."""
    return [row for path in sorted((data.path / "quarantine").iterdir()) for row in pq.read_table(path).to_pylist()]


def contents(data: Prepared) -> dict[str, bytes]:
    """The contents of every file that may depend on nothing but the set of rows."""
    paths = [*data.path.glob("shards/*/*"), data.path / "schema.json", data.path / "items.parquet"]
    return {str(path.relative_to(data.path)): path.read_bytes() for path in paths}


def is_empty(store: Store) -> bool:
    """Whether the store has no files."""
    return not store.root.exists() or not any(path.is_file() for path in store.root.rglob("*"))


def as_parquet(folder: Path, rows: list[Row]) -> None:
    """Write a folder with one Parquet file of typed columns."""
    folder.mkdir()
    table = pa.Table.from_pylist([{**row, "price": float(row["price"])} for row in reversed(rows)])
    times = pa.array(np.array(table["timestamp"].to_pylist(), "datetime64[us]"))
    pq.write_table(table.set_column(2, "timestamp", times), folder / "log.parquet", row_group_size=100)
