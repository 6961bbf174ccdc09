"""Reading raw files: all formats give the same rows, broken lines are separated, damaged files are rejected."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import urllib.parse
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import models.raw.encodings
from models.errors import DataRejected
from models.raw.quarantine import Quarantine, rows_as_json
from models.raw.tables import Format, Reading, find, parse_mapping, read

ROWS = [{"user": f"u{place % 7}", "item": f"i{place}", "price": f"{place}.5"} for place in range(50)]


def everything(raw: Path, *, format: Format = "auto") -> tuple[list[dict[str, object]], dict[str, list[str]]]:
    rows: list[dict[str, object]] = []
    broken: dict[str, list[str]] = {}
    for source in find(str(raw), Reading(format)):
        for chunk in read(source):
            rows += [json.loads(row) for row in rows_as_json(chunk.rows)]
            for reason, lines in chunk.broken.items():
                broken.setdefault(reason, []).extend(lines)
    return rows, broken


def delimited(delimiter: str) -> bytes:
    lines = [delimiter.join(ROWS[0]), *(delimiter.join(row.values()) for row in ROWS)]
    return ("\n".join(lines) + "\n").encode()


def json_lines() -> bytes:
    return "\n".join(json.dumps(row) for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", delimited(",")),
        ("log.csv", delimited(";")),
        ("log.csv", b"\xef\xbb\xbf" + delimited(",").replace(b"\n", b"\r\n")),
        ("log.tsv", delimited("\t")),
        ("log.jsonl", json_lines()),
        ("log.json", json_lines().replace(b"\n", b"\r\n\r\n")),
    ],
)
@pytest.mark.parametrize("is_gzipped", [False, True])
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, content: bytes, is_gzipped: bool) -> None:
    path = tmp_path / (name + ".gz" if is_gzipped else name)
    path.write_bytes(gzip.compress(content) if is_gzipped else content)
    assert everything(path) == (ROWS, {})


def test_parquet_gives_its_rows_gzipped_or_not(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")
    (tmp_path / "log.parquet.gz").write_bytes(gzip.compress((tmp_path / "log.parquet").read_bytes()))
    assert everything(tmp_path / "log.parquet") == everything(tmp_path / "log.parquet.gz") == (ROWS, {})


def test_a_folder_is_read_file_by_file_without_hidden_files(tmp_path: Path) -> None:
    header, *lines = delimited(",").splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a.csv").write_bytes(header + b"".join(lines[:20]))
    (tmp_path / "b" / "c.csv.gz").write_bytes(gzip.compress(header + b"".join(lines[20:])))
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".a.csv.crc").write_bytes(b"\x00")
    assert everything(tmp_path) == (ROWS, {})


def test_a_uri_is_read_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(delimited(","))
    (source,) = find(f"file://{tmp_path}/log.csv")
    assert sum(chunk.rows.num_rows for chunk in read(source)) == len(ROWS)


def test_types_of_csv_values_are_not_inferred(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user,item\n007,"2011-01-01"\nTrue,"a\nb"\n,""\n', encoding="utf-8")
    rows, _ = everything(tmp_path / "log.csv")
    assert rows[0] == {"user": "007", "item": "2011-01-01"}
    assert rows[1] == {"user": "True", "item": "a\nb"}
    assert rows[2]["user"] is None


def test_ids_in_json_are_neither_parsed_as_times_nor_rounded(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": "2011-01-01", "item": 12345678901234567891}\n', encoding="utf-8")
    assert everything(path)[0] == [{"user": "2011-01-01", "item": "12345678901234567891"}]


def test_lines_that_cannot_be_parsed_are_separated_from_the_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\nu1,i1\nu2\nu3,i3,x\nu4,i4\n", encoding="utf-8")
    (tmp_path / "log.jsonl").write_text('{"user": "u1"}\n{"user": \n[1]\n{"user": 2}\n', encoding="utf-8")
    (tmp_path / "log.txt").write_bytes(b"u1 i1\nu2 \xff\nu3 i3\n")
    assert everything(tmp_path / "log.csv") == (
        [{"user": "u1", "item": "i1"}, {"user": "u4", "item": "i4"}],
        {"wrong_number_of_fields": ["u2", "u3,i3,x"]},
    )
    assert everything(tmp_path / "log.jsonl") == (
        [{"user": "u1"}, {"user": "2"}],
        {"broken_json": ['{"user": ', "[1]"]},
    )
    assert everything(tmp_path / "log.txt") == ([{"line": "u1 i1"}, {"line": "u3 i3"}], {"not_utf8": ["u2 \\xff"]})


def test_lines_across_block_boundaries_are_read_correctly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", 64)
    (tmp_path / "log.jsonl").write_bytes(json_lines())
    (tmp_path / "log.csv").write_bytes(delimited(","))
    assert everything(tmp_path / "log.jsonl") == everything(tmp_path / "log.csv") == (ROWS, {})


def damaged(kind: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    parquet: bytes = sink.getvalue().to_pybytes()
    return {
        "cut.parquet": parquet[: len(parquet) // 2],
        "cut.csv.gz": gzip.compress(delimited(","))[:-6],
        "cut.jsonl.gz": gzip.compress(json_lines())[:-6],
        "cut.txt.gz": gzip.compress(b"u1 i1\n" * 500)[:-6],
        "cut.parquet.gz": gzip.compress(parquet)[:-20],
        "not.parquet": b"hello, world",
        "zero.parquet": b"\0" * 40,
    }[kind]


@pytest.mark.parametrize(
    "name",
    ["cut.parquet", "cut.csv.gz", "cut.jsonl.gz", "cut.txt.gz", "cut.parquet.gz", "not.parquet", "zero.parquet"],
)
def test_a_damaged_file_is_rejected_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged(name))
    with pytest.raises(DataRejected, match=name):
        everything(tmp_path / name)


def test_a_missing_file_or_unknown_format_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="does not exist"):
        find(str(tmp_path / "nothing.csv"))
    with pytest.raises(DataRejected, match="cannot read nowhere://bucket"):
        find("nowhere://bucket/log.csv")
    (tmp_path / "log.data").write_bytes(b"PK")
    with pytest.raises(DataRejected, match="--format to one of csv, tsv, jsonl, parquet, sequences"):
        find(str(tmp_path / "log.data"))
    (tmp_path / "log.xlsx").write_bytes(b"PK")
    with pytest.raises(DataRejected, match=r"log\.xlsx is a spreadsheet, .* save the sheet as CSV"):
        find(str(tmp_path / "log.xlsx"))


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    for name in ("a.csv", "b.jsonl", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.csv").write_bytes(b"user,item\n")
    (tmp_path / "e.csv").write_bytes(b"user,item")
    assert everything(tmp_path) == ([], {})


def test_a_column_mapping_is_validated() -> None:
    assert parse_mapping("user_id=User, item_id=A=B", names=("user_id", "item_id")) == {
        "user_id": "User",
        "item_id": "A=B",
    }
    for wrong in ("user_id", "user_id=", "shop=x", "user_id=a,user_id=b"):
        with pytest.raises(
            ValueError, match=r"cannot parse .* write NAME=COLUMN,NAME=COLUMN, where NAME is one of user_id, item_id"
        ):
            parse_mapping(wrong, names=("user_id", "item_id"))


def test_quarantine_keeps_original_rows_of_any_type(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "n": pa.array([1, None], pa.int32()),
            "big": pa.array([2**60 + 1, 5]),
            "text": ['a"\n\x01é', "y/z"],
            "bytes": pa.array([b"ok", b"\xff"]),
            "kind": pa.array(["x", None]).dictionary_encode(),
            "tags": pa.array([["p", "q"], []]),
            "time": pa.array([1_300_000_000_000_001, None], pa.timestamp("us")),
        }
    )
    with Quarantine(tmp_path / "q.parquet") as quarantine:
        quarantine.add_rows(rows, reasons=pa.array(["first", "second"]), source="log.parquet")
        quarantine.add_lines(["{broken"], reason="first", source="log.jsonl")
    kept = pq.read_table(tmp_path / "q.parquet").to_pylist()
    assert quarantine.counts == {"first": 2, "second": 1}
    assert [row["source"] for row in kept] == ["log.parquet", "log.parquet", "log.jsonl"]
    assert json.loads(kept[0]["row"]) == {
        "n": 1,
        "big": 2**60 + 1,
        "text": 'a"\n\x01é',
        "bytes": "ok",
        "kind": "x",
        "tags": ["p", "q"],
        "time": "2011-03-13 07:06:40.000001",
    }
    assert json.loads(kept[1]["row"])["bytes"] == "\\xff"
    assert json.loads(kept[2]["row"]) == {"line": "{broken"}


class FakeS3(http.server.BaseHTTPRequestHandler):
    """Enough of S3 to list one bucket and to read its objects, whole or in ranges."""

    objects: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        key = urllib.parse.unquote(path).strip("/").partition("/")[2]
        if key in self.objects:
            self._send_object(self.objects[key])
        elif "list-type" in query:
            prefix = urllib.parse.parse_qs(query).get("prefix", [""])[0]
            listed = [name for name in self.objects if name.startswith(prefix)]
            self._send(200, _listing(prefix, {name: len(self.objects[name]) for name in listed}))
        else:
            self._send(404, b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _send_object(self, content: bytes) -> None:
        span = self.headers.get("Range", "").removeprefix("bytes=")
        if not span:
            return self._send(200, content)
        first, _, last = span.partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        return self._send(206, part, f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")

    def _send(self, status: int, content: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _listing(prefix: str, sizes: dict[str, int]) -> bytes:
    entries = "".join(
        f"<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>2024-01-01T00:00:00Z</LastModified></Contents>"
        for name, size in sizes.items()
    )
    head = f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>{len(sizes)}</KeyCount>"
    return f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


def test_a_folder_on_s3_is_read_like_a_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS[:20]), sink)
    header, *lines = delimited(",").splitlines(keepends=True)
    objects = {
        "logs/a.parquet": sink.getvalue().to_pybytes(),
        "logs/b/c.csv.gz": gzip.compress(header + b"".join(lines[20:])),
        "logs/_SUCCESS": b"",
    }
    monkeypatch.setattr(FakeS3, "objects", objects)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeS3)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"s3://key:secret@bucket/logs?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.server_port}"
    try:
        rows = [json.loads(row) for s in find(uri) for chunk in read(s) for row in rows_as_json(chunk.rows)]
        with pytest.raises(DataRejected, match=r"s3://\*\*\*@bucket/none"):
            find(uri.replace("/logs", "/none"))
    finally:
        server.shutdown()
        server.server_close()
    assert rows == ROWS
