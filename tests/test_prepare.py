"""Preparing a behaviour log: the result is a function of the set of rows, and bad input is refused or quarantined."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import jobs.prepare
from jobs.context import Context, Outcome, Store, UsageFailure
from models import FAMILIES
from models.family import DataRejected
from models.recommender.events import hash_ids
from models.recommender.log import PrepareConfig
from models.recommender.schema import NUM_SHARDS, Schema

RECOMMENDER = FAMILIES["recommender"]
Row = dict[str, Any]


def make_log(num_events: int = 600, *, seed: int = 0) -> list[Row]:
    """Events of 30 users and 12 items over 60 days, in random order; some share their time."""
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


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    content = ("\n".join(lines) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def prepare(store: Store, config: PrepareConfig, *, is_dry_run: bool = False) -> Outcome:
    return jobs.prepare.run(Context(store=store, dry_run=is_dry_run), RECOMMENDER, jobs.prepare.Options(), config)


def prepared(store: Store, raw: Path, **settings: Any) -> Path:
    return Path(prepare(store, PrepareConfig(raw=str(raw), **settings)).details["data"])


def histories(data: Path) -> dict[str, list[tuple[str, int]]]:
    """user -> (item, time) in order, read back from the shards."""
    items = pq.read_table(data / "items.parquet")["item_id"].to_pylist()
    found: dict[str, list[tuple[str, int]]] = {}
    for shard in sorted((data / "shards").iterdir()):
        events, times, offsets = (np.load(shard / f"{name}.npy") for name in ("items", "timestamps", "offsets"))
        for place, user in enumerate(pq.read_table(shard / "users.parquet")["user_id"].to_pylist()):
            span = slice(offsets[place], offsets[place + 1])
            found[user] = [(items[i - 1], t) for i, t in zip(events[span].tolist(), times[span].tolist(), strict=True)]
    return found


def quarantined(data: Path) -> list[Row]:
    return [row for path in sorted((data / "quarantine").iterdir()) for row in pq.read_table(path).to_pylist()]


def contents(data: Path) -> dict[str, bytes]:
    """Every file that must not depend on anything but the set of rows."""
    names = [*data.glob("shards/*/*"), data / "schema.json", data / "items.parquet"]
    return {str(path.relative_to(data)): path.read_bytes() for path in names}


def nothing_is_left(store: Store) -> bool:
    return not store.root.exists() or not any(path.is_file() for path in store.root.rglob("*"))


def test_events_are_ordered_split_and_sharded_by_user(tmp_path: Path, store: Store) -> None:
    rows = make_log()
    data = prepared(store, write_csv(tmp_path / "log.csv", rows))
    expected: dict[str, list[tuple[str, str]]] = {}
    for row in sorted(rows, key=lambda row: (row["timestamp"], row["item_id"])):
        expected.setdefault(row["user_id"], []).append((row["timestamp"], row["item_id"]))
    found = {
        user: [(str(np.datetime64(time, "s")).replace("T", " "), item) for item, time in events]
        for user, events in histories(data).items()
    }
    assert found == expected
    schema = Schema.model_validate_json((data / "schema.json").read_text())
    assert schema.items == sorted({row["item_id"] for row in rows})
    cuts = [
        np.datetime64(text.removesuffix("Z")).astype(int) for text in (schema.val_from or "", schema.test_from or "")
    ]
    for shard in range(NUM_SHARDS):
        directory = data / "shards" / f"{shard:05d}"
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
    schema = Schema.model_validate_json((data / "schema.json").read_text())
    late = schema.index["late"] - 1
    assert (schema.item_counts[late], schema.item_first_seen[late]) == (0, 0)
    assert sum(schema.item_counts) == schema.num_examples["train"] < 101
    assert schema.item_first_seen[0] == 1_700_000_000
    assert np.datetime64(schema.train_until, "s") < np.datetime64((schema.val_from or "").removesuffix("Z"))


def test_leave_one_out_takes_the_last_two_events_of_those_with_three(tmp_path: Path, store: Store) -> None:
    rows = [
        {"user_id": f"u{length}", "item_id": f"i{place}", "timestamp": 1_700_000_000 + place}
        for length in range(1, 6)
        for place in range(length)
    ]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")
    found: dict[str, list[int]] = {}
    for shard in sorted((data / "shards").iterdir()):
        users = pq.read_table(shard / "users.parquet")["user_id"].to_pylist()
        found |= dict(zip(users, np.load(shard / "splits.npy").tolist(), strict=True))
    assert found == {"u1": [1, 1, 1], "u2": [2, 2, 2], "u3": [1, 1, 2], "u4": [2, 2, 3], "u5": [3, 3, 4]}


def as_one_csv(folder: Path, rows: list[Row]) -> None:
    write_csv(folder / "log.csv", rows)


def as_shuffled_gzips(folder: Path, rows: list[Row]) -> None:
    shuffled = random.Random(1).sample(rows, len(rows))
    for place in range(3):
        write_csv(folder / f"part-{place}.csv.gz", shuffled[place::3])


def as_parquet(folder: Path, rows: list[Row]) -> None:
    folder.mkdir()
    table = pa.Table.from_pylist([{**row, "price": float(row["price"])} for row in reversed(rows)])
    times = pa.array(np.array(table["timestamp"].to_pylist(), "datetime64[us]"))
    pq.write_table(table.set_column(2, "timestamp", times), folder / "log.parquet", row_group_size=100)


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


class Backwards(Executor):
    """Runs everything at once and in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("executor", [Backwards(), ThreadPoolExecutor(7)])
def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path, store: Store, executor: Executor) -> None:
    as_shuffled_gzips(tmp_path / "log", make_log())
    two = prepared(store, tmp_path / "log")
    (tmp_path / "out").mkdir()
    RECOMMENDER.prepare(PrepareConfig(raw=str(tmp_path / "log")), tmp_path / "out", executor)
    assert contents(two) == contents(tmp_path / "out")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_partitions_run_as_ray_tasks_with_the_same_result(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    local = prepared(store, raw)
    context = Context(store=Store(tmp_path / "cluster"), address="auto")
    outcome = jobs.prepare.run(context, RECOMMENDER, jobs.prepare.Options(), PrepareConfig(raw=str(raw)))
    assert contents(local) == contents(Path(outcome.details["data"]))
    with pytest.raises(DataRejected, match="no column"):
        config = PrepareConfig(raw=str(raw), columns="user_id=shopper")
        jobs.prepare.run(context, RECOMMENDER, jobs.prepare.Options(), config)


def test_a_second_run_over_equal_rows_changes_nothing_and_says_so(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    first = prepare(store, PrepareConfig(raw=str(raw)))
    before = {path: path.stat().st_mtime_ns for path in Path(first.details["data"]).rglob("*")}
    second = prepare(store, PrepareConfig(raw=str(write_csv(tmp_path / "again.csv.gz", reversed(make_log())))))
    assert (first.status, second.status) == ("ok", "unchanged")
    assert first.details["fingerprint"] == second.details["fingerprint"]
    assert {path: path.stat().st_mtime_ns for path in Path(first.details["data"]).rglob("*")} == before
    assert store.current_data("recommender") == Path(first.details["data"])


def test_the_newest_data_becomes_current_and_the_old_stays(tmp_path: Path, store: Store) -> None:
    old = prepared(store, write_csv(tmp_path / "old.csv", make_log(seed=1)))
    new = prepared(store, write_csv(tmp_path / "new.csv", make_log(seed=2)))
    assert old.is_dir() and old != new
    assert store.current_data("recommender") == new
    assert {path.name for path in new.parent.iterdir()} == {old.name, new.name, "CURRENT"}


def test_a_dry_run_reports_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    config = PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", make_log())))
    dry = prepare(store, config, is_dry_run=True)
    assert not store.root.exists()
    assert dry.status == "dry-run"
    real = prepare(store, config)
    assert {**dry.details, "seconds": 0} == {**real.details, "seconds": 0}


def test_exact_repeats_count_once_and_different_rows_do_not(tmp_path: Path, store: Store) -> None:
    rows = make_log()
    distinct = len({tuple(row.values()) for row in rows})
    dearer = [{**row, "price": "99.5"} for row in rows[:7]]
    raw = write_csv(tmp_path / "log.csv", [*rows, *rows[:40], *dearer, *dearer])
    details = prepare(store, PrepareConfig(raw=str(raw))).details
    assert details["kept"] == distinct + 7
    assert details["duplicates"] == details["rows"] - details["kept"]
    assert details["bad"] == {}


def test_a_repeated_event_id_counts_once_as_its_smallest_row(tmp_path: Path) -> None:
    rows: list[Row] = [{**row, "event_id": f"e{place}"} for place, row in enumerate(make_log(200))]
    changed = [{**row, "user_id": f"z{place}"} for place, row in enumerate(rows[:30])]
    same = [{**rows[0], "event_id": "twin"}, {**rows[0], "event_id": ""}]
    first = Store(tmp_path / "a"), write_csv(tmp_path / "a.csv", [*rows, *changed, *same])
    second = Store(tmp_path / "b"), write_csv(tmp_path / "b.csv", [*same, *reversed(changed), *rows])
    data = prepared(*first)
    assert contents(data) == contents(prepared(*second))
    card = json.loads((data / "card.json").read_text())
    assert (card["kept"], card["duplicates"]) == (202, 30)
    assert not any(user.startswith("z") for user in histories(data))


def test_ties_in_time_are_ordered_by_session_then_item(tmp_path: Path, store: Store) -> None:
    tied = [("s2", "a"), ("s1", "c"), ("s1", "b"), ("", "z")]
    rows: list[Row] = [
        {"user_id": "u", "item_id": item, "session_id": s, "timestamp": "2024-05-01"} for s, item in tied
    ]
    rows += [{"user_id": "v", "item_id": i, "session_id": "s", "timestamp": f"2024-05-0{i}"} for i in range(1, 9)]
    data = prepared(store, write_csv(tmp_path / "log.csv", rows), split="leave-one-out")
    assert [item for item, _ in histories(data)["u"]] == ["z", "b", "c", "a"]


BAD = [
    ({"user_id": ""}, "missing_user_id"),
    ({"user_id": "NULL"}, "missing_user_id"),
    ({"item_id": "  "}, "missing_item_id"),
    ({"user_id": "u" * 257}, "too_long_user_id"),
    ({"item_id": "a\tb"}, "control_character_in_item_id"),
    ({"timestamp": ""}, "missing_timestamp"),
    ({"timestamp": "12/1/2010 8:26"}, "bad_timestamp"),
    ({"timestamp": "2024-02-30"}, "bad_timestamp"),
    ({"timestamp": "2024-05"}, "bad_timestamp"),
    ({"timestamp": "1970-01-01T00:00:00Z"}, "implausible_timestamp"),
    ({"timestamp": "2999-01-01"}, "implausible_timestamp"),
    ({"timestamp": "0"}, "implausible_timestamp"),
    ({"timestamp": "-5"}, "implausible_timestamp"),
    ({"timestamp": "1e300"}, "implausible_timestamp"),
    ({"quantity": "0"}, "quantity_not_positive"),
    ({"quantity": "-3"}, "quantity_not_positive"),
    ({"quantity": "many"}, "bad_quantity"),
    ({"quantity": "inf"}, "bad_quantity"),
    ({"price": "-0.01"}, "negative_price"),
    ({"price": "nan "}, None),
    ({"price": "1e999"}, "bad_price"),
    ({"price": "£5"}, "bad_price"),
    ({"currency": "pounds"}, "bad_currency"),
    ({"currency": "gbp"}, None),
    ({"session_id": "s" * 300}, "too_long_session_id"),
    ({"item_id": "POST"}, "excluded_item"),
    ({"timestamp": "2024-05-01T12:00:00.123456789+05:30"}, None),
    ({"timestamp": "2024-05-01 12:00"}, None),
    ({"timestamp": "1714564800.5"}, None),
    ({"price": "0"}, None),
    ({"quantity": ""}, None),
]


def test_every_kind_of_bad_row_is_quarantined_with_reason_and_original(tmp_path: Path, store: Store) -> None:
    filled = {"quantity": "1", "currency": "GBP", "session_id": "s"}
    rows = [{**row, **filled} for row in make_log(100)]
    odd = [{**rows[0], "user_id": "odd", "item_id": f"odd{place}", **change} for place, (change, _) in enumerate(BAD)]
    settings = {"max_bad_fraction": 0.5, "exclude_items": ("POST",), "split": "leave-one-out"}
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *odd]), **settings)
    expected = [(row, reason) for row, (_, reason) in zip(odd, BAD, strict=True) if reason]
    found = [(json.loads(row["row"]), row["reason"]) for row in quarantined(data)]
    assert found == [({name: value or None for name, value in row.items()}, reason) for row, reason in expected]
    card = json.loads((data / "card.json").read_text())
    assert card["kept"] + card["duplicates"] + sum(card["bad"].values()) == card["rows"] == len(rows) + len(odd)
    assert len(histories(data)["odd"]) == len(odd) - len(expected)


@pytest.mark.parametrize(
    ("per_second", "remedy"),
    [(1_000_000, "microseconds: divide by 1,000,000"), (1e9, "nanoseconds"), (1 / 60, "minutes: multiply by 60")],
)
def test_times_in_the_wrong_unit_are_rejected_with_a_value_and_the_remedy(
    tmp_path: Path, store: Store, per_second: float, remedy: str
) -> None:
    rows: list[Row] = [
        {**row, "timestamp": int((1_700_000_000 + place) * per_second)} for place, row in enumerate(make_log(50))
    ]
    with pytest.raises(DataRejected, match=rf"100.0%.*{rows[0]['timestamp']}.*{remedy}"):
        prepared(store, write_csv(tmp_path / "log.csv", rows))
    assert nothing_is_left(store)


def test_arrow_times_far_out_of_range_are_rejected_not_crashed_on(tmp_path: Path, store: Store) -> None:
    times = pa.array([2**55] * 50, pa.timestamp("ms"))
    table = pa.Table.from_pylist(make_log(50)).set_column(2, "timestamp", times)
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataRejected, match="implausible_timestamp"):
        prepared(store, tmp_path / "log.parquet")


def test_too_many_bad_rows_are_rejected_with_examples_and_the_way_on(tmp_path: Path, store: Store) -> None:
    rows = make_log(100)
    for row in rows[:5]:
        row["price"] = "-7.25"
    raw = write_csv(tmp_path / "log.csv", rows)
    with pytest.raises(DataRejected, match=r"5 of 100 rows \(5.0%\).*negative_price.*'-7.25'.*--max-bad-fraction 0.05"):
        prepared(store, raw)
    assert nothing_is_left(store)
    assert json.loads((prepared(store, raw, max_bad_fraction=0.05) / "card.json").read_text())["kept"] == 95


def one_user() -> list[Row]:
    return [{**row, "user_id": "u"} for row in make_log(50)]


def one_item() -> list[Row]:
    return [{**row, "item_id": "i"} for row in make_log(50)]


def all_bad() -> list[Row]:
    return [{**row, "user_id": ""} for row in make_log(50)]


def one_moment() -> list[Row]:
    return [{**row, "timestamp": "2024-05-01"} for row in make_log(50)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (one_user(), "1 user.*at least 2"),
        (one_item(), "one item, 'i'.*at least 2"),
        (all_bad(), r"50 of 50 rows \(100.0%\).*missing_user_id"),
        (one_moment(), "no events.*--split leave-one-out"),
        ([{"user_id": "", "item_id": "", "timestamp": ""}][:0] or [{"user_id": "u"}], "no column 'item_id'.*--columns"),
    ],
)
def test_a_log_that_teaches_nothing_is_rejected(tmp_path: Path, store: Store, rows: list[Row], message: str) -> None:
    with pytest.raises(DataRejected, match=message):
        prepared(store, write_csv(tmp_path / "log.csv", rows), max_bad_fraction=1.0)
    assert nothing_is_left(store)


def test_an_empty_file_is_rejected(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.csv").write_bytes(b"")
    with pytest.raises(DataRejected, match=r"log\.csv is empty"):
        prepared(store, tmp_path / "log.csv")
    assert nothing_is_left(store)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_wrong_columns_are_rejected_with_those_there_are(tmp_path: Path, store: Store, name: str) -> None:
    rows = [{"CustomerID": row["user_id"], "StockCode": row["item_id"], "When": row["timestamp"]} for row in make_log()]
    if name == "log.csv":
        write_csv(tmp_path / name, rows)
    elif name == "log.jsonl":
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    with pytest.raises(DataRejected, match=r"no column 'user_id'.*CustomerID, StockCode, When.*--columns user_id="):
        prepared(store, tmp_path / name)
    with pytest.raises(DataRejected, match="no column 'Kunde'"):
        prepared(store, tmp_path / name, columns="user_id=Kunde,item_id=StockCode,timestamp=When")
    assert nothing_is_left(store)
    prepared(store, tmp_path / name, columns="user_id=CustomerID,item_id=StockCode,timestamp=When")


def test_a_truncated_parquet_file_is_rejected_with_its_name(tmp_path: Path, store: Store) -> None:
    as_parquet(tmp_path / "log", make_log())
    path = tmp_path / "log" / "log.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataRejected, match=r"log\.parquet"):
        prepared(store, tmp_path / "log")
    assert nothing_is_left(store)


def test_a_truncated_gzip_after_many_good_rows_leaves_nothing_behind(tmp_path: Path, store: Store) -> None:
    old = prepared(store, write_csv(tmp_path / "old.csv", make_log()))
    path = write_csv(tmp_path / "log.csv.gz", make_log(5000))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataRejected, match=r"log\.csv\.gz.*damaged"):
        prepared(store, path)
    assert {entry.name for entry in old.parent.iterdir()} == {old.name, "CURRENT"}
    assert store.current_data("recommender") == old


class Interrupting(Executor):
    """Ctrl-C while the second kind of work runs, when files lie in the directory already."""

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Any:
        if "partial" in type(fn).__name__:
            raise KeyboardInterrupt
        return [fn(*arguments) for arguments in zip(*iterables, strict=True)]


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    monkeypatch.setattr("jobs.executor.ThreadPoolExecutor", lambda _: Interrupting())
    with pytest.raises(KeyboardInterrupt):
        prepared(store, raw)
    assert not store.root.exists()


def test_json_lines_need_not_name_what_they_do_not_know(tmp_path: Path, store: Store) -> None:
    rows = make_log(300)
    for row in rows[:100]:
        del row["price"]
    broken = ['{"user_id": "u1", "item_id"', "[]", '{"item_id": "i1", "timestamp": "2024-03-01"}']
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, *broken]), encoding="utf-8")
    data = prepared(store, tmp_path / "log.jsonl", max_bad_fraction=0.02)
    card = json.loads((data / "card.json").read_text())
    assert card["bad"] == {"broken_json": 2, "missing_user_id": 1}
    assert [json.loads(row["row"]).get("line") for row in quarantined(data)[:2]] == broken[:2]


def test_whole_numbers_are_the_same_ids_in_any_type(tmp_path: Path) -> None:
    rows = [{**row, "user_id": 17850 + place % 9} for place, row in enumerate(make_log(300))]
    found = []
    for place, kind in enumerate((pa.int32(), pa.float64(), pa.string(), pa.string())):
        table = pa.Table.from_pylist(rows)
        users = table["user_id"].cast(pa.float64()).cast(kind) if place == 2 else table["user_id"].cast(kind)
        pq.write_table(table.set_column(0, "user_id", users), tmp_path / f"{place}.parquet")
        found.append(contents(prepared(Store(tmp_path / f"s{place}"), tmp_path / f"{place}.parquet")))
    assert found[0] == found[1] == found[2] == found[3]


def test_float_ids_beyond_exactness_are_quarantined(tmp_path: Path, store: Store) -> None:
    table = pa.Table.from_pylist(make_log(50)).set_column(0, "user_id", pa.array([2.0**60] * 50))
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataRejected, match="unreadable_user_id"):
        prepared(store, tmp_path / "log.parquet")


def test_both_kinds_of_sequence_file_give_the_same_data(tmp_path: Path) -> None:
    baskets = {"u1": "a b a c", "u2": "c c", "u10": "b d a"}
    (tmp_path / "lists.txt").write_text("".join(f"{user}  {items} \n\n" for user, items in baskets.items()))
    pairs = "".join(f"{user}\t{item}\r\n" for user, items in baskets.items() for item in items.split())
    (tmp_path / "pairs.txt.gz").write_bytes(gzip.compress(pairs.encode()))
    lists = prepared(Store(tmp_path / "a"), tmp_path / "lists.txt", split="leave-one-out")
    other = prepared(Store(tmp_path / "b"), tmp_path / "pairs.txt.gz", split="leave-one-out", format="sequences")
    assert histories(lists)["u1"] == [("a", 0), ("b", 1), ("a", 2), ("c", 3)]
    assert contents(lists) == contents(other)
    assert Schema.model_validate_json((lists / "schema.json").read_text()).train_until == 4


def test_a_line_without_items_is_quarantined_and_sequences_have_no_time_split(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.txt").write_text("u1 a b c\nu2\nu3 b c a\n")
    with pytest.raises(DataRejected, match="no times to split by; use --split leave-one-out"):
        prepared(store, tmp_path / "log.txt")
    data = prepared(store, tmp_path / "log.txt", split="leave-one-out", max_bad_fraction=0.2)
    assert [(row["reason"], json.loads(row["row"])) for row in quarantined(data)] == [
        ("missing_item_id", {"user_id": "u2", "item_id": None})
    ]


def test_sequences_and_tables_do_not_mix(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.txt").write_text("u1 a b c\n")
    write_csv(tmp_path / "log" / "b.csv", make_log())
    with pytest.raises(DataRejected, match="mixes"):
        prepared(store, tmp_path / "log")


def test_cut_times_can_be_given(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    data = prepared(store, raw, val_from="2024-04-15", test_from="2024-04-20T12:00:00+01:00")
    schema = Schema.model_validate_json((data / "schema.json").read_text())
    assert (schema.val_from, schema.test_from) == ("2024-04-15T00:00:00Z", "2024-04-20T11:00:00Z")
    with pytest.raises(DataRejected, match="test split has no events"):
        prepared(store, raw, val_from="2024-04-15", test_from="2025-01-01")


@pytest.mark.parametrize(
    "change",
    [
        {"columns": "user=x"},
        {"item_columns": "title"},
        {"max_bad_fraction": 2.0},
        {"val_from": "2024-04-15"},
        {"val_from": "2024-04-15", "test_from": "2024-04-14"},
        {"val_from": "soon", "test_from": "later"},
        {"split": "leave-one-out", "val_from": "2024-04-15", "test_from": "2024-04-16"},
    ],
)
def test_flags_that_make_no_sense_are_a_usage_failure(tmp_path: Path, store: Store, change: dict[str, Any]) -> None:
    config = PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", make_log())))
    with pytest.raises(UsageFailure):
        prepare(store, replace(config, **change))
    assert nothing_is_left(store)


def test_the_item_table_has_the_most_frequent_value_of_each_attribute(tmp_path: Path, store: Store) -> None:
    rows = [
        {"sku": "i0", "title": " Lamp ", "price": "5", "code": "01"},
        {"sku": "i0", "title": "Lamp", "price": "5.5", "code": "01"},
        {"sku": "i0", "title": "?", "price": "5.5", "code": ""},
        {"sku": "i1", "title": "b", "price": "", "code": "x"},
        {"sku": "i1", "title": "a", "price": "", "code": "x"},
        {"sku": "elsewhere", "title": "a", "price": "cheap", "code": "x"},
        {"sku": "", "title": "lost", "price": "1", "code": "x"},
    ]
    items = write_csv(tmp_path / "items.csv", rows)
    settings = {"items": str(items), "item_columns": "item_id=sku,name=title,price=price,code=code"}
    data = prepared(store, write_csv(tmp_path / "log.csv", make_log()), **settings)
    table = pq.read_table(data / "items.parquet")
    assert table["item_id"].to_pylist() == sorted(f"i{place}" for place in range(12))
    assert table["name"].to_pylist()[:3] == ["Lamp", "a", None]
    assert table["price"].to_pylist()[:3] == [5.5, None, None]
    assert table["code"].to_pylist()[:2] == ["01", "x"]
    assert [row["reason"] for row in quarantined(data)] == ["item_table_missing_item_id"]


def test_another_item_table_gives_another_fingerprint(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    tables = [write_csv(tmp_path / f"{name}.csv", [{"item_id": "i0", "title": name}]) for name in ("a", "b")]
    assert len({prepared(store, raw, items=str(table)).name for table in tables}) == 2


def test_wrong_item_columns_are_rejected_with_those_there_are(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    items = write_csv(tmp_path / "items.csv", [{"sku": "i0", "title": "a"}])
    with pytest.raises(DataRejected, match=r"no column 'item_id'; its columns are: sku, title.*--item-columns"):
        prepared(store, raw, items=str(items))
    assert nothing_is_left(store)


RETAIL: dict[str, Any] = {
    "columns": "user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate,"
    "quantity=Quantity,price=UnitPrice,session_id=InvoiceNo",
    "item_columns": "item_id=StockCode,title=Description",
}


@pytest.mark.real
def test_sequence_benchmarks_have_their_published_counts(shared_data: Path, store: Store) -> None:
    published = {
        "movielens_1m/ml-1m_sasrec.txt.gz": (6_040, 3_416, 999_611),
        "amazon_sequences/s3rec_Beauty.txt.gz": (22_363, 12_101, 198_502),
    }
    for name, counts in published.items():
        details = prepare(store, PrepareConfig(raw=str(shared_data / name), split="leave-one-out")).details
        assert (details["users"], details["items"], details["kept"]) == counts
        assert details["splits"]["test"] == {"events": counts[0], "users": counts[0]}
        assert details["rows"] == details["kept"]


@pytest.mark.real
def test_online_retail_is_refused_as_it_is_and_every_row_is_accounted_for(shared_data: Path, store: Store) -> None:
    raw = str(shared_data / "online_retail_uci" / "online_retail.parquet")
    with pytest.raises(DataRejected, match=r"135,080 missing_user_id.*--max-bad-fraction 0.27"):
        prepare(store, PrepareConfig(raw=raw, **RETAIL))
    assert nothing_is_left(store)
    details = prepare(store, PrepareConfig(raw=raw, items=raw, max_bad_fraction=0.27, **RETAIL)).details
    assert details["rows"] == 541_909
    assert details["bad"] == {"missing_user_id": 135_080, "quantity_not_positive": 8_905}
    assert details["kept"] + details["duplicates"] == 397_884 + 40  # the published clean rows and 40 free items
    assert (details["users"], details["items"]) == (4_339, 3_665)
    services = ("POST", "DOT", "M", "C2", "D", "S", "BANK CHARGES", "PADS", "CRUK", "AMAZONFEE", "B")
    goods = prepare(store, PrepareConfig(raw=raw, max_bad_fraction=0.27, exclude_items=services, **RETAIL)).details
    assert goods["bad"] == {"excluded_item": 1_920, "missing_user_id": 135_080, "quantity_not_positive": 8_539}
    assert (goods["kept"], goods["duplicates"], goods["items"]) == (391_181, 5_189, 3_659)
    titles = pq.read_table(Path(details["data"]) / "items.parquet").to_pylist()
    assert {"item_id": "85123A", "title": "WHITE HANGING HEART T-LIGHT HOLDER"} in titles


@pytest.mark.real
def test_online_retail_as_csv_with_float_customers_is_the_same_data(shared_data: Path, tmp_path: Path) -> None:
    raw = shared_data / "online_retail_uci" / "online_retail.parquet"
    table = pq.read_table(raw).slice(0, 60_000)
    pq.write_table(table, tmp_path / "log.parquet")
    users = pa.array([None if user is None else f"{user}.0" for user in table["CustomerID"].to_pylist()])
    table = table.set_column(table.column_names.index("CustomerID"), "CustomerID", users)
    pyarrow.csv.write_csv(table, tmp_path / "log.csv")
    found = [
        contents(prepared(Store(tmp_path / name), tmp_path / name / f"../log.{name}", max_bad_fraction=0.4, **RETAIL))
        for name in ("parquet", "csv")
    ]
    assert found[0] == found[1]
