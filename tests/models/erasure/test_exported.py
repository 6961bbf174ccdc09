"""Exports of events and an erasure: only their own files are rewritten, and one that cannot be read is named."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.erasure.copies import CopiesUnreadable, record_copy, recorded_copies
from models.erasure.erased import FOREVER, Erased, digest_of
from models.erasure.exported import CODECS, clean_export, search_export

ERASED = Erased(b"salt", {digest_of("anna", b"salt"): FOREVER})
HEADER = "user_id,session_id,item_id,event_seq,event_store\n"
OF_ANNA, OF_BEN = "anna,s1,i1,1,shop\n", "ben,s2,i2,2,shop\n"
NAME = "events-shop-000000000000001-000000000000002"


def test_only_the_files_of_exports_are_rewritten(tmp_path: Path) -> None:
    own_log = b'"user_id","session_id"\r\n"anna","s1"\r\n'
    (tmp_path / "log.csv").write_bytes(own_log)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "linked.csv").write_text(HEADER + OF_ANNA)
    (tmp_path / "link.csv").symlink_to(tmp_path / "elsewhere" / "linked.csv")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "renamed.csv").write_text(HEADER + OF_ANNA + OF_BEN)

    found = clean_export(tmp_path, ERASED)

    assert [(each.path.name, each.count, each.error) for each in found] == [("renamed.csv", 1, None)]
    assert (tmp_path / "renamed.csv").read_text() == HEADER + OF_BEN
    assert (tmp_path / "log.csv").read_bytes() == own_log
    assert (tmp_path / "elsewhere" / "linked.csv").read_text() == HEADER + OF_ANNA


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.csv", HEADER.encode() + b"an\xe4,s1,i1,1,shop\n"),
        ("huge.csv", (HEADER + "x" * 200_000 + ",s1,i1,1,shop\n").encode()),
        ("list.jsonl", b"[1, 2]\n"),
        ("cut.parquet", b"PAR1"),
        (f"{NAME}.csv.gz", b"\x1f\x8b\x08"),
        (f"{NAME}.csv.7z", b""),
        (f"{NAME}.csv", gzip.compress(HEADER.encode(), mtime=0)),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_cleaned(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.csv").write_text(HEADER + OF_ANNA)

    found = clean_export(tmp_path, ERASED)

    assert {each.path.name: each.error is not None for each in found} == {name: True, "z.csv": False}
    assert (tmp_path / name).read_bytes() == content
    assert (tmp_path / "z.csv").read_text() == HEADER


@pytest.mark.parametrize(
    "suffix", ["csv", "jsonl", "parquet", "csv.gz", "jsonl.gz", "parquet.gz", "csv.zst", "csv.xz", "csv.bz2"]
)
def test_all_formats_are_searched_and_cleaned(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"{NAME}.{suffix}"
    keys = HEADER.strip().split(",")
    rows = [dict(zip(keys, line.strip().split(","), strict=True)) for line in (OF_ANNA, OF_BEN)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    plain = {
        "csv": (HEADER + OF_ANNA + OF_BEN).encode(),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "parquet": sink.getvalue().to_pybytes(),
    }[suffix.split(".")[0]]
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(plain))
    elif (codec := CODECS.get(path.suffix)) is None:
        path.write_bytes(plain)
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(path), "w"), codec) as file:
            file.write(plain)
    before = path.read_bytes()

    assert [each.count for each in search_export(tmp_path, ERASED)] == [1]
    assert path.read_bytes() == before
    assert [(each.count, each.error) for each in clean_export(tmp_path, ERASED)] == [(1, None)]
    assert search_export(tmp_path, ERASED) == []
    if suffix == "csv.gz":
        assert gzip.decompress(path.read_bytes()).decode() == HEADER + OF_BEN


def test_exports_at_the_same_time_are_all_recorded(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=record_copy, args=(tmp_path, "export", tmp_path / str(number))) for number in range(16)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(recorded_copies(tmp_path)) == 16


@pytest.mark.parametrize("content", ["[{", "{}x", '[{"kind": "export"}]', "[1]"])
def test_a_damaged_record_of_copies_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "copies.json").write_text(content)

    with pytest.raises(CopiesUnreadable, match=r"copies\.json.*delete it"):
        recorded_copies(tmp_path)
