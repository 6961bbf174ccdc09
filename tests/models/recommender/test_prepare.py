"""Preparing a behaviour log: the result is a function of the set of rows."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.prepare
from jobs.cli.context import Context, Store
from models.errors import DataRejected
from models.prepared import Prepared
from models.recommender.prepare.events import hash_ids
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import NUM_SHARDS, Schema
from tests.kit.logs import (
    RECOMMENDER,
    Row,
    as_parquet,
    contents,
    histories,
    make_log,
    prepare,
    prepared,
    quarantined,
    write_csv,
)


def test_events_are_ordered_split_and_sharded_by_user(tmp_path: Path, store: Store) -> None:
    rows = make_log()
    data = prepared(store, write_csv(tmp_path / "log.csv", rows))
    expected: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        expected.setdefault(row["user_id"], []).append((row["timestamp"], row["item_id"]))
    found = {
        user: [(str(np.datetime64(time, "s")).replace("T", " "), item) for item, time in events]
        for user, events in histories(data).items()
    }
    assert {user: sorted(events) for user, events in found.items()} == {
        user: sorted(events) for user, events in expected.items()
    }
    assert all(time <= later for events in found.values() for (time, _), (later, _) in pairwise(events))
    schema = data.schema(Schema)
    assert schema.items == sorted({row["item_id"] for row in rows})
    cuts = [
        np.datetime64(text.removesuffix("Z")).astype(int) for text in (schema.val_from or "", schema.test_from or "")
    ]
    for shard in range(NUM_SHARDS):
        directory = data.shard(shard)
        users = pq.read_table(directory / "users.parquet")["user_id"]
        assert users.to_pylist() == sorted(users.to_pylist())
        assert all(hash_ids(users.combine_chunks()) % NUM_SHARDS == shard)
        offsets, times, splits = (np.load(directory / f"{name}.npy") for name in ("offsets", "timestamps", "splits"))
        for place in range(len(users)):
            own = times[offsets[place] : offsets[place + 1]]
            assert splits[place].tolist() == [int((own < cut).sum()) for cut in [cuts[0], *cuts]]


def test_a_time_split_cuts_at_days_after_about_80_and_90_percent(tmp_path: Path, store: Store) -> None:
    outcome = prepare(store, PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", make_log(3000)))))
    events = {name: split["events"] / outcome.details["kept"] for name, split in outcome.details["splits"].items()}
    assert events == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.02)
    assert outcome.details["val_from"].endswith("T00:00:00Z")


def test_statistics_of_the_schema_come_from_the_training_split_only(tmp_path: Path, store: Store) -> None:
    rows = [
        {"user_id": f"u{place % 5}", "item_id": f"i{place % 3}", "timestamp": 1_700_000_000 + place * 3600}
        for place in range(100)
    ]
    rows.append({"user_id": "u0", "item_id": "late", "timestamp": 1_700_000_000 + 99 * 3600})
    data = prepared(store, write_csv(tmp_path / "log.csv", rows))
    schema = data.schema(Schema)
    late = schema.index["late"] - 1
    assert (schema.item_counts[late], schema.item_first_seen[late]) == (0, 0)
    assert sum(schema.item_counts) == schema.num_examples["train"] < 101
    assert schema.item_first_seen[0] == 1_700_000_000
    assert np.datetime64(schema.train_until, "s") < np.datetime64((schema.val_from or "").removesuffix("Z"))


def test_leave_one_out_holds_out_the_last_two_events_of_users_with_three(tmp_path: Path, store: Store) -> None:
    rows = [
        {"user_id": f"u{length}", "item_id": f"i{place}", "timestamp": 1_700_000_000 + place}
        for length in range(1, 6)
        for place in range(length)
    ]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")
    found: dict[str, list[int]] = {}
    for shard in data.shards():
        users = pq.read_table(shard / "users.parquet")["user_id"].to_pylist()
        found |= dict(zip(users, np.load(shard / "splits.npy").tolist(), strict=True))
    assert found == {"u1": [1, 1, 1], "u2": [2, 2, 2], "u3": [1, 1, 2], "u4": [2, 2, 3], "u5": [3, 3, 4]}


def as_one_csv(folder: Path, rows: list[Row]) -> None:
    write_csv(folder / "log.csv", rows)


def as_shuffled_gzips(folder: Path, rows: list[Row]) -> None:
    shuffled = random.Random(1).sample(rows, len(rows))
    for place in range(3):
        write_csv(folder / f"part-{place}.csv.gz", shuffled[place::3])


def as_json_lines(folder: Path, rows: list[Row]) -> None:
    folder.mkdir()
    lines = [json.dumps({**row, "timestamp": row["timestamp"].replace(" ", "T") + "Z"}) for row in rows]
    (folder / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")


def as_tabs_with_epochs(folder: Path, rows: list[Row]) -> None:
    folder.mkdir()
    lines = ["user_id\ttimestamp\titem_id\tprice"]
    for place, row in enumerate(rows):
        seconds = np.datetime64(row["timestamp"]).astype("datetime64[s]").astype(int)
        time = seconds * 1000 if place % 2 else seconds
        lines.append(f"{row['user_id']} \t{time}\t {row['item_id']}\t{row['price']}")
    (folder / "log.tsv").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("layout", [as_shuffled_gzips, as_parquet, as_json_lines, as_tabs_with_epochs])
def test_the_result_does_not_depend_on_order_and_layout(
    tmp_path: Path, layout: Callable[[Path, list[Row]], None]
) -> None:
    rows = make_log()
    rows += rows[:50]
    as_one_csv(tmp_path / "plain", rows)
    layout(tmp_path / "other", rows)
    plain = prepared(Store(tmp_path / "a"), tmp_path / "plain")
    other = prepared(Store(tmp_path / "b"), tmp_path / "other")
    assert contents(plain) == contents(other)
    assert plain.name == other.name


class Synchronous(Executor):
    """Runs everything immediately, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("executor", [Synchronous(), ThreadPoolExecutor(7)])
def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path, store: Store, executor: Executor) -> None:
    as_shuffled_gzips(tmp_path / "log", make_log())
    two = prepared(store, tmp_path / "log")
    (tmp_path / "out").mkdir()
    RECOMMENDER.prepare(PrepareConfig(raw=str(tmp_path / "log")), tmp_path / "out", executor)
    assert contents(two) == contents(Prepared(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_partitions_run_as_ray_tasks_with_the_same_result(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    local = prepared(store, raw)
    context = Context(store=Store(tmp_path / "cluster"), address="auto")
    outcome = jobs.prepare.run(context, RECOMMENDER, jobs.prepare.Options(), PrepareConfig(raw=str(raw)))
    assert contents(local) == contents(Prepared(Path(outcome.details["data"])))
    with pytest.raises(DataRejected, match="no column"):
        config = PrepareConfig(raw=str(raw), columns="user_id=shopper")
        jobs.prepare.run(context, RECOMMENDER, jobs.prepare.Options(), config)


def test_a_second_run_on_equal_rows_reports_unchanged_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    first = prepare(store, PrepareConfig(raw=str(raw)))
    before = {path: path.stat().st_mtime_ns for path in Path(first.details["data"]).rglob("*")}
    second = prepare(store, PrepareConfig(raw=str(write_csv(tmp_path / "again.csv.gz", reversed(make_log())))))
    assert (first.status, second.status) == ("ok", "unchanged")
    assert first.details["fingerprint"] == second.details["fingerprint"]
    assert {path: path.stat().st_mtime_ns for path in Path(first.details["data"]).rglob("*")} == before
    assert store.current_data("recommender") == Prepared(Path(first.details["data"]))


def test_the_newest_data_becomes_current_and_the_old_is_kept(tmp_path: Path, store: Store) -> None:
    old = prepared(store, write_csv(tmp_path / "old.csv", make_log(seed=1)))
    new = prepared(store, write_csv(tmp_path / "new.csv", make_log(seed=2)))
    assert old.path.is_dir() and old != new
    assert store.current_data("recommender") == new
    assert {path.name for path in new.path.parent.iterdir()} == {old.name, new.name, "CURRENT"}


def test_a_dry_run_reports_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    config = PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", make_log())))
    dry = prepare(store, config, is_dry_run=True)
    assert not store.root.exists()
    assert dry.status == "dry-run"
    real = prepare(store, config)
    assert {**dry.details, "seconds": 0} == {**real.details, "seconds": 0}


def test_exact_duplicates_count_once_and_rows_that_differ_are_kept(tmp_path: Path, store: Store) -> None:
    rows = make_log()
    distinct = len({tuple(row.values()) for row in rows})
    dearer = [{**row, "price": "99.5"} for row in rows[:7]]
    raw = write_csv(tmp_path / "log.csv", [*rows, *rows[:40], *dearer, *dearer])
    details = prepare(store, PrepareConfig(raw=str(raw))).details
    assert details["kept"] == distinct + 7
    assert details["duplicates"] == details["rows"] - details["kept"]
    assert details["bad"] == {}


def test_of_rows_with_the_same_event_id_the_smallest_is_kept(tmp_path: Path) -> None:
    rows: list[Row] = [{**row, "event_id": f"e{place}"} for place, row in enumerate(make_log(200))]
    changed = [{**row, "user_id": f"z{place}"} for place, row in enumerate(rows[:30])]
    same = [{**rows[0], "event_id": "twin"}, {**rows[0], "event_id": ""}]
    first = Store(tmp_path / "a"), write_csv(tmp_path / "a.csv", [*rows, *changed, *same])
    second = Store(tmp_path / "b"), write_csv(tmp_path / "b.csv", [*same, *reversed(changed), *rows])
    data = prepared(*first)
    assert contents(data) == contents(prepared(*second))
    card = data.card()
    assert (card["kept"], card["duplicates"]) == (202, 30)
    assert not any(user.startswith("z") for user in histories(data))


def test_ties_in_time_are_ordered_by_session(tmp_path: Path, store: Store) -> None:
    tied = [("s2", "a"), ("s1", "b"), ("s3", "c"), ("", "z")]
    rows: list[Row] = [
        {"user_id": "u", "item_id": item, "session_id": s, "timestamp": "2024-05-01"} for s, item in tied
    ]
    rows += [{"user_id": "v", "item_id": i, "session_id": "s", "timestamp": f"2024-05-0{i}"} for i in range(1, 9)]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")
    assert [item for item, _ in histories(data)["u"]] == ["z", "b", "a", "c"]


def test_the_order_within_a_basket_is_independent_of_the_item_ids(tmp_path: Path) -> None:
    rows = [
        {"user_id": user, "item_id": f"i{item:03d}", "session_id": f"s{day}", "timestamp": f"2024-05-0{day}"}
        for user in ("u", "v")
        for day in (1, 2)
        for item in range(400)
    ]
    as_one_csv(tmp_path / "plain", rows)
    as_shuffled_gzips(tmp_path / "other", rows)
    data = prepared(Store(tmp_path / "a"), tmp_path / "plain", split="leave-one-out")
    other = prepared(Store(tmp_path / "b"), tmp_path / "other", split="leave-one-out")
    numbers = np.array([int(item[1:]) for item, _ in histories(data)["u"]])
    place_of_item = np.argsort(numbers[:400]), np.argsort(numbers[400:])
    assert contents(data) == contents(other)
    assert sorted(numbers[:400].tolist()) == list(range(400))
    assert abs(np.corrcoef(np.arange(400), numbers[:400])[0, 1]) < 0.2
    assert abs(np.corrcoef(*place_of_item)[0, 1]) < 0.2, "the next basket has an order of its own"


def test_json_lines_may_omit_missing_values(tmp_path: Path, store: Store) -> None:
    rows = make_log(300)
    for row in rows[:100]:
        del row["price"]
    broken = ['{"user_id": "u1", "item_id"', "[]", '{"item_id": "i1", "timestamp": "2024-03-01"}']
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, *broken]), encoding="utf-8")
    data = prepared(store, tmp_path / "log.jsonl", max_bad_fraction=0.02)
    card = data.card()
    assert card["bad"] == {"broken_json": 2, "missing_user_id": 1}
    assert [json.loads(row["row"]).get("line") for row in quarantined(data)[:2]] == broken[:2]


def test_integer_ids_are_the_same_in_any_column_type(tmp_path: Path) -> None:
    rows = [{**row, "user_id": 17850 + place % 9} for place, row in enumerate(make_log(300))]
    found = []
    for place, kind in enumerate((pa.int32(), pa.float64(), pa.string(), pa.string())):
        table = pa.Table.from_pylist(rows)
        users = table["user_id"].cast(pa.float64()).cast(kind) if place == 2 else table["user_id"].cast(kind)
        pq.write_table(table.set_column(0, "user_id", users), tmp_path / f"{place}.parquet")
        found.append(contents(prepared(Store(tmp_path / f"s{place}"), tmp_path / f"{place}.parquet")))
    assert found[0] == found[1] == found[2] == found[3]


def test_both_sequence_formats_give_the_same_data(tmp_path: Path) -> None:
    baskets = {"u1": "a b a c", "u2": "c c", "u10": "b d a"}
    (tmp_path / "lists.txt").write_text("".join(f"{user}  {items} \n\n" for user, items in baskets.items()))
    pairs = "".join(f"{user}\t{item}\r\n" for user, items in baskets.items() for item in items.split())
    (tmp_path / "pairs.txt.gz").write_bytes(gzip.compress(pairs.encode()))
    lists = prepared(Store(tmp_path / "a"), tmp_path / "lists.txt", split="leave-one-out")
    other = prepared(Store(tmp_path / "b"), tmp_path / "pairs.txt.gz", split="leave-one-out", format="sequences")
    assert histories(lists)["u1"] == [("a", 0), ("b", 1), ("a", 2), ("c", 3)]
    assert contents(lists) == contents(other)
    assert lists.schema(Schema).train_until == 4


def test_cut_times_can_be_given(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    data = prepared(store, raw, val_from="2024-04-15", test_from="2024-04-20T12:00:00+01:00")
    schema = data.schema(Schema)
    assert (schema.val_from, schema.test_from) == ("2024-04-15T00:00:00Z", "2024-04-20T11:00:00Z")
    with pytest.raises(DataRejected, match="test split has no events"):
        prepared(store, raw, val_from="2024-04-15", test_from="2025-01-01")


def test_the_item_table_has_the_most_frequent_value_of_each_attribute(tmp_path: Path, store: Store) -> None:
    rows = [
        {"sku": "i0", "title": " Lamp ", "price": "5", "code": "01"},
        {"sku": "i0", "title": "Lamp", "price": "5.5", "code": "01"},
        {"sku": "i0", "title": "?", "price": "5.5", "code": ""},
        {"sku": "i1", "title": "b", "price": "", "code": "x"},
        {"sku": "i1", "title": "a", "price": "", "code": "x"},
        {"sku": "elsewhere", "title": "a", "price": "3", "code": "x"},
        {"sku": "banned", "title": "a", "price": "3", "code": "x"},
        {"sku": "", "title": "lost", "price": "1", "code": "x"},
    ]
    items = write_csv(tmp_path / "items.csv", rows)
    columns = "item_id=sku,name=title,price=price,code=code"
    raw = write_csv(tmp_path / "log.csv", make_log())
    data = prepared(store, raw, items=str(items), item_columns=columns, exclude_items=("banned",))
    table = pq.read_table(data.path / "items.parquet")
    assert table["item_id"].to_pylist() == ["elsewhere", *sorted(f"i{place}" for place in range(12))]
    table = table.slice(1)
    assert table["name"].to_pylist()[:3] == ["Lamp", "a", None]
    assert table["price"].to_pylist()[:3] == [5.5, None, None]
    assert table["code"].to_pylist()[:2] == ["01", "x"]
    assert [row["reason"] for row in quarantined(data)] == ["item_table_missing_item_id"]


def test_a_different_item_table_gives_a_different_fingerprint(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    tables = [write_csv(tmp_path / f"{name}.csv", [{"item_id": "i0", "title": name}]) for name in ("a", "b")]
    assert len({prepared(store, raw, items=str(table)).name for table in tables}) == 2
