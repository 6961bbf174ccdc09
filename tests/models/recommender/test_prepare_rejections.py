"""Preparing a bad log: what is rejected, what is quarantined, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Store, UsageFailure
from models.errors import DataRejected
from models.recommender.prepare.settings import PrepareConfig
from tests.kit.logs import (
    Row,
    as_parquet,
    histories,
    is_empty,
    make_log,
    prepare,
    prepared,
    quarantined,
    write_csv,
)

BAD = [
    ({"user_id": "", "session_id": ""}, "missing_user_id"),
    ({"user_id": "NULL", "session_id": "n/a"}, "missing_user_id"),
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


def test_every_kind_of_bad_row_is_quarantined_with_its_reason_and_original(tmp_path: Path, store: Store) -> None:
    filled = {"quantity": "1", "currency": "GBP", "session_id": "s"}
    rows = [{**row, **filled} for row in make_log(100)]
    odd = [{**rows[0], "user_id": "odd", "item_id": f"odd{place}", **change} for place, (change, _) in enumerate(BAD)]
    settings = {"max_bad_fraction": 0.5, "exclude_items": ("POST",), "split": "leave-one-out"}
    data = prepared(store, write_csv(tmp_path / "log.csv", [*rows, *odd]), **settings)
    expected = [(row, reason) for row, (_, reason) in zip(odd, BAD, strict=True) if reason]
    found = [(json.loads(row["row"]), row["reason"]) for row in quarantined(data)]
    assert found == [({name: value or None for name, value in row.items()}, reason) for row, reason in expected]
    card = data.card()
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
    assert is_empty(store)


def test_arrow_times_far_out_of_range_are_rejected_without_a_crash(tmp_path: Path, store: Store) -> None:
    times = pa.array([2**55] * 50, pa.timestamp("ms"))
    table = pa.Table.from_pylist(make_log(50)).set_column(2, "timestamp", times)
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataRejected, match="implausible_timestamp"):
        prepared(store, tmp_path / "log.parquet")


def test_too_many_bad_rows_are_rejected_with_examples_and_the_remedy(tmp_path: Path, store: Store) -> None:
    rows = make_log(100)
    for row in rows[:5]:
        row["price"] = "-7.25"
    raw = write_csv(tmp_path / "log.csv", rows)
    with pytest.raises(DataRejected, match=r"5 of 100 rows \(5.0%\).*negative_price.*'-7.25'.*--max-bad-fraction 0.05"):
        prepared(store, raw)
    assert is_empty(store)
    assert prepared(store, raw, max_bad_fraction=0.05).card()["kept"] == 95


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
        (all_bad(), r"50 of 50 rows \(100.0%\).*missing_user_id \(a session may .*--columns session_id="),
        (one_moment(), "no events.*--split leave-one-out"),
        ([{"user_id": "u"}], "no column 'item_id'.*--columns"),
    ],
)
def test_a_log_that_cannot_be_learned_from_is_rejected(
    tmp_path: Path, store: Store, rows: list[Row], message: str
) -> None:
    with pytest.raises(DataRejected, match=message):
        prepared(store, write_csv(tmp_path / "log.csv", rows), max_bad_fraction=1.0)
    assert is_empty(store)


def test_an_empty_file_is_rejected(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.csv").write_bytes(b"")
    with pytest.raises(DataRejected, match=r"log\.csv is empty"):
        prepared(store, tmp_path / "log.csv")
    assert is_empty(store)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_wrong_columns_are_rejected_with_the_columns_of_the_file(tmp_path: Path, store: Store, name: str) -> None:
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
    assert is_empty(store)
    prepared(store, tmp_path / name, columns="user_id=CustomerID,item_id=StockCode,timestamp=When")


def test_a_truncated_parquet_file_is_rejected_with_its_name(tmp_path: Path, store: Store) -> None:
    as_parquet(tmp_path / "log", make_log())
    path = tmp_path / "log" / "log.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataRejected, match=r"log\.parquet"):
        prepared(store, tmp_path / "log")
    assert is_empty(store)


def test_a_truncated_gzip_after_many_good_rows_leaves_nothing_behind(tmp_path: Path, store: Store) -> None:
    old = prepared(store, write_csv(tmp_path / "old.csv", make_log()))
    path = write_csv(tmp_path / "log.csv.gz", make_log(5000))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataRejected, match=r"log\.csv\.gz.*damaged"):
        prepared(store, path)
    assert {entry.name for entry in old.path.parent.iterdir()} == {old.name, "CURRENT"}
    assert store.current_data("recommender") == old


class Interrupting(Executor):
    """Ctrl-C in the second step, when the directory already has files."""

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Any:
        if "partial" in type(fn).__name__:
            raise KeyboardInterrupt
        return [fn(*arguments) for arguments in zip(*iterables, strict=True)]


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    monkeypatch.setattr("jobs.cluster.executor.ThreadPoolExecutor", lambda _: Interrupting())
    with pytest.raises(KeyboardInterrupt):
        prepared(store, raw)
    assert not store.root.exists()


def test_prepare_removes_day_old_leftovers_of_killed_runs(tmp_path: Path, store: Store) -> None:
    data, two_days_ago = store.data("recommender"), time.time() - 2 * 86_400
    killed, alive, pointer = data / ".new.00000000", data / ".new.11111111", data / ".CURRENT.00000000"
    for directory in (killed, alive):
        (directory / "work").mkdir(parents=True)
    for path in (pointer, data / ".gitignore"):
        path.write_text("nothing\n")
    for path in (killed / "work", killed, alive, pointer, data / ".gitignore"):
        os.utime(path, (two_days_ago, two_days_ago))
    raw = write_csv(tmp_path / "log.csv", make_log())
    prepare(store, PrepareConfig(raw=str(raw)), is_dry_run=True)
    assert killed.exists()
    new = prepared(store, raw)
    assert {path.name for path in data.iterdir()} == {alive.name, ".gitignore", new.name, "CURRENT"}


def test_float_ids_that_are_not_exact_are_quarantined(tmp_path: Path, store: Store) -> None:
    table = pa.Table.from_pylist(make_log(50)).set_column(0, "user_id", pa.array([2.0**60] * 50))
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataRejected, match="unreadable_user_id"):
        prepared(store, tmp_path / "log.parquet")


def test_a_line_without_items_is_quarantined_and_sequences_have_no_time_split(tmp_path: Path, store: Store) -> None:
    (tmp_path / "log.txt").write_text("u1 a b c\nu2\nu3 b c a\n")
    with pytest.raises(DataRejected, match="no times to split by; use --split leave-one-out"):
        prepared(store, tmp_path / "log.txt")
    data = prepared(store, tmp_path / "log.txt", split="leave-one-out", max_bad_fraction=0.2)
    assert [(row["reason"], json.loads(row["row"])) for row in quarantined(data)] == [
        ("missing_item_id", {"user_id": "u2", "item_id": None})
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"columns": "user=x"},
        {"item_columns": "title"},
        {"val_from": "2024-04-15"},
        {"val_from": "2024-04-15", "test_from": "2024-04-14"},
        {"val_from": "soon", "test_from": "later"},
        {"split": "leave-one-out", "val_from": "2024-04-15", "test_from": "2024-04-16"},
    ],
)
def test_invalid_flags_are_a_usage_failure(tmp_path: Path, store: Store, change: dict[str, Any]) -> None:
    config = PrepareConfig(raw=str(write_csv(tmp_path / "log.csv", make_log())))
    with pytest.raises(UsageFailure):
        prepare(store, replace(config, **change))
    assert is_empty(store)


def test_wrong_item_columns_are_rejected_with_the_columns_of_the_file(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", make_log())
    items = write_csv(tmp_path / "items.csv", [{"sku": "i0", "title": "a"}])
    with pytest.raises(DataRejected, match=r"no column 'item_id'; its columns are: sku, title.*--item-columns"):
        prepared(store, raw, items=str(items))
    assert is_empty(store)
