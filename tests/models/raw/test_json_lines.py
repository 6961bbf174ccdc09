"""JSON in any arrangement gives the same rows, and fields of nested objects are columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import models.raw.encodings
from models.raw.tables import find, read
from tests.models.raw.reading import read_everything

OBJECTS = [{"user": f"u{place}", "title": 'a "b" [c], {d} \\', "n": place, "tags": ["x,", "]"]} for place in range(60)]
ARRANGEMENTS = {
    "lines": "\n".join(map(json.dumps, OBJECTS)),
    "array": json.dumps(OBJECTS),
    "array of lines": "[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
    "spread array": json.dumps(OBJECTS, indent=2),
    "spread objects": "\n".join(json.dumps(row, indent=2) for row in OBJECTS),
}


@pytest.mark.parametrize("text", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
@pytest.mark.parametrize("num_bytes", [7, 64, 8 * 1024 * 1024])
def test_every_arrangement_of_json_gives_the_same_rows(
    tmp_path: Path, text: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", num_bytes)
    monkeypatch.setattr(models.raw.json_lines, "_SAMPLE_BYTES", 64)
    (tmp_path / "log.json").write_text("  " + text, encoding="utf-8")
    found = read_everything(tmp_path / "log.json")
    assert (found.rows, found.broken) == (OBJECTS, {})


def test_an_array_that_ends_early_keeps_its_complete_objects(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('[{"user": "u1"}, {"user": "u2"}, {"us', encoding="utf-8")
    found = read_everything(tmp_path / "log.json")
    assert (found.rows, found.broken) == ([{"user": "u1"}, {"user": "u2"}], {"broken_json": [' {"us']})


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(" [ ] \n", encoding="utf-8")
    assert read_everything(tmp_path / "log.json").rows == []


def test_fields_of_nested_objects_are_columns_in_every_block(tmp_path: Path) -> None:
    lines = [
        {"user": {"id": "2024-01-01", "geo": {"city": "Bonn"}}, "item": "i1"},
        {"user": {"id": 12345678901234567891}, "item": None},
        {"user": None, "item": "i3"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    slow = read_everything(tmp_path / "a.jsonl").rows
    assert [row.get("user.id") for row in slow] == ["2024-01-01", "12345678901234567891", None]
    assert slow[0]["user.geo.city"] == "Bonn"
    (tmp_path / "b.jsonl").write_text(json.dumps(lines[0]) + "\n", encoding="utf-8")
    fast = read_everything(tmp_path / "b.jsonl").rows[0]
    assert {name: fast[name] for name in slow[0] if name != "user"} == {
        name: value for name, value in slow[0].items() if name != "user"
    }


def test_objects_stay_a_column_next_to_lines_that_are_broken_or_of_other_types(tmp_path: Path) -> None:
    lines = ['{"user": 1, "filter": {"price": {"min": 5}}}', '{"user": "u2", "filter": {"brand": "a"}}', "{"]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    rows = read_everything(tmp_path / "log.jsonl").rows
    assert rows[0]["filter"] == {"brand": None, "price": {"min": 5}}
    assert [row["filter.brand"] for row in rows] == [None, "a"]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"user": "u3", "filter": {"price": 7}}', ""]))
    assert read_everything(tmp_path / "log.jsonl").rows[0]["filter"] == '{"price": {"min": 5}}'


@pytest.mark.parametrize(("bad", "shown"), [(b"caf\xe9", "caf\\xe9"), (b"\\ud83d", "\\xed\\xa0\\xbd")])
def test_json_text_that_is_not_utf8_is_bytes_in_its_column_only(tmp_path: Path, bad: bytes, shown: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"user": "u1", "title": "%s"}\n{"user": "u2", "title": "tea"}\n' % bad)
    (source,) = find(str(tmp_path / "log.jsonl"))
    (chunk,) = read(source)
    assert (chunk.rows["user"].type, chunk.rows["title"].type) == (pa.string(), pa.binary())
    assert [row["title"] for row in read_everything(tmp_path / "log.jsonl").rows] == [shown, "tea"]


def test_a_line_that_is_nested_too_deeply_is_broken(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user": "u1"}\n{"user": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    found = read_everything(tmp_path / "log.jsonl")
    assert (found.rows, list(found.broken)) == ([{"user": "u1"}], ["broken_json"])


def test_fields_of_nested_columns_of_parquet_are_columns(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"user": {"id": "u1", "geo": {"city": "Bonn"}}}, {"user": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    found = read_everything(tmp_path / "log.parquet").rows
    assert [(row["user.id"], row["user.geo.city"]) for row in found] == [("u1", "Bonn"), (None, None)]


def test_objects_next_to_other_values_are_text_of_json(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"user": {"id": "u1"}}\n{"user": "u2"}\n', encoding="utf-8")
    rows = read_everything(tmp_path / "log.jsonl").rows
    assert [(row["user"], row.get("user.id")) for row in rows] == [('{"id": "u1"}', "u1"), ("u2", None)]


def test_lists_stay_lists_in_a_block_of_mixed_types(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"u": 1, "items": ["a", 2]}\n{"u": "x", "items": []}\n', encoding="utf-8")
    assert read_everything(tmp_path / "log.jsonl").rows == [{"u": "1", "items": ["a", "2"]}, {"u": "x", "items": []}]
