"""Preparing logs as other programs write them: each gives the same data as the plain log, or an error with a remedy."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli.context import Outcome, Store
from models.errors import DataRejected
from models.recommender.prepare.settings import PrepareConfig
from tests.kit.logs import make_log, prepare, write_csv

ROWS = make_log(600)
LINES = ["user_id,item_id,timestamp", *(f"{row['user_id']},{row['item_id']},{row['timestamp']}" for row in ROWS)]


def run(store: Store, raw: Path, **settings: Any) -> Outcome:
    return prepare(store, PrepareConfig(raw=str(raw), **settings))


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_other_encodings_dialects_and_arrangements_give_the_same_data(tmp_path: Path, store: Store) -> None:
    text = "\n".join(LINES)
    array = json.dumps([dict(zip(LINES[0].split(","), line.split(","), strict=True)) for line in LINES[1:]])
    raws = [
        written(tmp_path / "plain.csv", text.encode()),
        written(tmp_path / "utf16.csv", text.encode("utf-16")),
        written(tmp_path / "mac.csv", text.replace("\n", "\r").encode()),
        written(tmp_path / "excel.csv", ("sep=;\n" + text.replace(",", ";")).encode()),
        written(tmp_path / "named.txt", text.replace(",", ", ", 2).encode()),
        written(tmp_path / "array.json", array.encode()),
        written(tmp_path / "packed.csv.bz2", bz2.compress(text.encode())),
    ]
    assert len({run(store, raw).details["fingerprint"] for raw in raws}) == 1


def test_a_log_without_a_header_is_read_by_numbered_columns(tmp_path: Path, store: Store) -> None:
    raw = written(tmp_path / "log.csv", "\n".join(LINES[1:]).encode())
    with pytest.raises(
        DataRejected, match=r"no header row .*has no column 'user_id'; its columns are: column1, column2"
    ):
        run(store, raw)
    found = run(store, raw, columns="user_id=column1,item_id=column2,timestamp=column3").details
    assert found["rows"] == len(ROWS)
    assert "no header row" in found["notes"][0]


def test_a_column_that_only_a_folder_names_tells_events_apart(tmp_path: Path, store: Store) -> None:
    events = pa.Table.from_pylist([{name: row[name] for name in ("user_id", "item_id", "timestamp")} for row in ROWS])
    for kind in ("view", "purchase"):
        folder = tmp_path / "log" / f"event_type={kind}"
        folder.mkdir(parents=True)
        pq.write_table(events, folder / "part.parquet")
    written(tmp_path / "log" / "_SUCCESS", b"")
    written(tmp_path / "log" / "readme.md", b"about")
    found = run(store, tmp_path / "log").details
    once = run(store, tmp_path / "log" / "event_type=view").details
    assert (found["rows"], found["kept"]) == (2 * once["rows"], 2 * once["kept"])
    assert found["left_out"] == {"readme.md: not the name of a table": 1}


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path, store: Store) -> None:
    lines = [LINES[0] + ",title", *(f"{line},x" for line in LINES[1:])]
    lines[300] = lines[300][:-1] + '"best'
    found = run(store, written(tmp_path / "log.csv", "\n".join(lines).encode())).details
    assert (found["rows"], found["bad"]) == (len(ROWS), {"open_quote": 1})


def test_a_nested_field_and_a_name_with_a_comma_are_named_in_columns(tmp_path: Path, store: Store) -> None:
    objects = [{"user": {"id": row["user_id"]}, "item, id": row["item_id"], "t": row["timestamp"]} for row in ROWS]
    raw = written(tmp_path / "log.jsonl", "\n".join(map(json.dumps, objects)).encode())
    found = run(store, raw, columns='user_id=user.id,item_id="item, id",timestamp=t').details
    assert (
        found["fingerprint"]
        == run(store, written(tmp_path / "a.csv", "\n".join(LINES).encode())).details["fingerprint"]
    )


def test_ids_that_are_not_utf8_are_bad_with_a_plausible_encoding(tmp_path: Path, store: Store) -> None:
    text = "\n".join(LINES).replace(",i1,", ",Käse,")
    raw = written(tmp_path / "log.csv", text.encode("cp1252"))
    with pytest.raises(DataRejected, match=r"unreadable_item_id, e.g. 'K\\\\xe4se' \(set --encoding .* cp1252\)"):
        run(store, raw)
    same = run(store, written(tmp_path / "utf8.csv", text.encode())).details["fingerprint"]
    assert run(store, raw, encoding="cp1252").details["fingerprint"] == same


def test_an_item_table_that_is_not_utf8_is_refused_until_its_encoding_is_given(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", ROWS)
    items = written(tmp_path / "items.csv", "item_id,title\ni1,羽绒服\ni2,鞋子\n".encode("gbk"))
    with pytest.raises(DataRejected, match=r"items\.csv: column 'title' .* set --item-encoding .* gb18030"):
        run(store, raw, items=str(items))
    found = run(store, raw, items=str(items), item_encoding="gb18030").details
    table = pq.read_table(Path(found["data"]) / "items.parquet").to_pylist()
    assert {row["title"] for row in table} == {None, "羽绒服", "鞋子"}


def test_an_item_table_with_two_columns_of_one_name_is_refused(tmp_path: Path, store: Store) -> None:
    raw = write_csv(tmp_path / "log.csv", ROWS)
    items = written(tmp_path / "items.csv", b"item_id,title,title\ni1,a,b\n")
    with pytest.raises(DataRejected, match=r"items\.csv has 2 columns 'title'"):
        run(store, raw, items=str(items))
