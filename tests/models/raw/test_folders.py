"""Folders and archives: what is data, what is left out and said, which columns folders name, what is unpacked."""

from __future__ import annotations

import bz2
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import DataRejected
from models.raw.tables import Reading, find, find_tables
from tests.models.raw.reading import read_everything

CSV = b"user,item\nu1,i1\n"
ROW = {"user": "u1", "item": "i1"}


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def packed(kind: str) -> bytes:
    if kind in ("zst", "lz4"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, {"zst": "zstd", "lz4": "lz4"}[kind]) as stream:
            stream.write(CSV)
        content: bytes = sink.getvalue().to_pybytes()
        return content
    return {"bz2": bz2.compress(CSV), "xz": lzma.compress(CSV), "csv": CSV}[kind]


@pytest.mark.parametrize("kind", ["bz2", "zst", "lz4", "xz"])
def test_compressed_files_are_read(tmp_path: Path, kind: str) -> None:
    write(tmp_path, **{f"log.csv.{kind}": packed(kind)})
    assert read_everything(tmp_path / f"log.csv.{kind}").rows == [ROW]


def test_compression_is_detected_whatever_the_name(tmp_path: Path) -> None:
    write(tmp_path, **{"log.csv": packed("zst"), "log.csv.gz": packed("csv")})
    assert read_everything(tmp_path).rows == [ROW, ROW]


def archive(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, CSV)


def test_a_zip_archive_of_one_file_is_read_and_several_are_named(tmp_path: Path) -> None:
    archive(tmp_path / "a.zip", "folder/log.csv", "__MACOSX/folder/._log.csv", "folder/.DS_Store")
    assert read_everything(tmp_path / "a.zip").rows == [ROW]
    archive(tmp_path / "b.csv.zip", "x")
    assert read_everything(tmp_path / "b.csv.zip").rows == [ROW]
    archive(tmp_path / "c.zip", "one.csv", "two.csv")
    with pytest.raises(DataRejected, match=r"c\.zip is a zip archive of 2 files \(one\.csv, two\.csv\); unpack it"):
        find(str(tmp_path / "c.zip"))
    archive(tmp_path / "d.csv", "xl/workbook.xml", "xl/styles.xml")
    with pytest.raises(DataRejected, match=r"d\.csv is an Excel workbook"):
        read_everything(tmp_path / "d.csv")


def changed(path: Path, header: bytes, place: int, value: int) -> None:
    """Write one byte of the first header of its kind in an archive."""
    content = bytearray(path.read_bytes())
    content[content.index(header) + place] = value
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("header", "place", "value", "expected"),
    [
        (b"PK\x01\x02", 8, 1, r"log\.csv in .*a\.zip: .*encrypted.*; unpack the archive first"),
        (b"PK\x01\x02", 10, 97, r"log\.csv in .*a\.zip: .*compression method.*; unpack the archive first"),
        (b"PK\x01\x02", 6, 99, r"a\.zip: zip file version 9\.9; unpack the archive first"),
        (b"PK\x05\x06", 0, 0, r"a\.zip: .*damaged or truncated; write it again"),
        (b"PK\x01\x02", 16, 0, r"a\.zip: Bad CRC.*damaged or truncated; write it again"),
    ],
)
def test_an_archive_that_cannot_be_read_is_named_with_a_remedy(
    tmp_path: Path, header: bytes, place: int, value: int, expected: str
) -> None:
    archive(tmp_path / "a.zip", "log.csv")
    changed(tmp_path / "a.zip", header, place, value)
    with pytest.raises(DataRejected, match=expected):
        read_everything(tmp_path / "a.zip")


def test_folders_named_key_value_add_columns(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "type=view/day=2024%2D05/a.csv": CSV,
            "type=__HIVE_DEFAULT_PARTITION__/day=007/b.csv": CSV,
            "user=other/type=%C3%A9/c.csv": CSV,
        },
    )
    assert read_everything(tmp_path).rows == [
        {**ROW, "type": None, "day": "007"},
        {**ROW, "type": "view", "day": "2024-05"},
        {**ROW, "type": "é"},
    ]


def test_folders_add_columns_to_parquet_and_json_too(tmp_path: Path) -> None:
    (tmp_path / "type=buy").mkdir()
    pq.write_table(pa.table({"user": ["u1"]}), tmp_path / "type=buy" / "a.parquet")
    write(tmp_path, **{"type=view/b.jsonl": b'{"user": "u2"}\n'})
    assert read_everything(tmp_path).rows == [{"user": "u1", "type": "buy"}, {"user": "u2", "type": "view"}]


def test_names_with_an_underscore_are_data_unless_spark_wrote_them(tmp_path: Path) -> None:
    spark = ["_SUCCESS", "_metadata", "_common_metadata", "_started_123", "_committed_123", "_temporary/0/a.csv"]
    write(tmp_path, **{"_2024.csv": CSV, "_old/b.csv": CSV, **dict.fromkeys(spark, b"x")})
    assert [source.relative for source in find(str(tmp_path))] == ["_2024.csv", "_old/b.csv"]


def test_what_a_folder_holds_and_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, **{"a.csv": CSV, "notes.txt": b"about this log\n", "x/b.md": b"x", "c.md": b"x", ".d.csv": CSV})
    write(tmp_path, **{"_delta_log/0.json": b"{}", ".a.csv.crc": b"x"})
    tables = find_tables(str(tmp_path))
    assert [source.relative for source in tables.sources] == ["a.csv"]
    assert tables.summary() == {
        ".d.csv: hidden": 1,
        "c.md: not the name of a table": 2,
        "notes.txt: text next to tables": 1,
    }
    assert f"left out of {tmp_path}: c.md: not the name of a table (2 files)" in tables.notes(str(tmp_path))
    assert not caplog.text
    find(str(tmp_path))
    assert caplog.text.count("c.md: not the name of a table (2 files)") == 1


def test_a_folder_may_mix_formats_and_have_empty_files(tmp_path: Path) -> None:
    write(tmp_path, **{"a.csv": CSV, "b.csv": b"", "c.csv": b"user,item\n", "d.jsonl": b'{"user": "u2"}\n'})
    write(tmp_path, **{"e.csv.bz2": bz2.compress(b"")})
    assert read_everything(tmp_path).rows == [ROW, {"user": "u2"}]


def test_a_text_file_is_a_table_if_its_lines_have_commas(tmp_path: Path) -> None:
    write(tmp_path, **{"log.txt": CSV, "words.txt": b"u1 i1 i2\nu2 i,3\nu3 i4\n", "empty.txt": b""})
    assert [find(str(tmp_path / name))[0].format for name in ("log.txt", "words.txt", "empty.txt")] == [
        "csv",
        "sequences",
        "sequences",
    ]
    assert find(str(tmp_path / "log.txt"), Reading("sequences"))[0].format == "sequences"
