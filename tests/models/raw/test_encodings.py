"""Text in other encodings than UTF-8: transcoded where it is known, else named with a remedy."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import models.raw.encodings
from models.errors import DataRejected
from models.raw.encodings import check_utf8, plausible_encoding
from models.raw.tables import Reading, find, read
from tests.models.raw.reading import read_everything

ROWS = [{"user": f"u{place}", "title": "Büro – 联通 café"} for place in range(30)]
TEXT = "user,title\n" + "".join(f"{row['user']},{row['title']}\n" for row in ROWS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_recognised_with_and_without_byte_order_mark(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.csv").write_bytes(TEXT.encode(encoding))
    assert read_everything(tmp_path / "log.csv").rows == ROWS
    monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", 65)
    assert read_everything(tmp_path / "log.csv").rows == ROWS


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.txt"])
def test_a_given_encoding_is_used_for_every_text_format(tmp_path: Path, name: str) -> None:
    text = {"log.csv": "user\n张三\n", "log.jsonl": '{"user": "张三"}\n', "log.txt": "张三 i1\n"}[name]
    (tmp_path / name).write_bytes(text.encode("gbk"))
    (row,) = read_everything(tmp_path / name, Reading(encoding="gb18030")).rows
    assert next(iter(row.values())) in ("张三", "张三 i1")


def test_bytes_that_the_encoding_does_not_allow_spoil_their_value_only(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("user,item\n张三,i1\n".encode("gbk") + b"\xff\xff,i2\n")
    (source,) = find(str(tmp_path / "log.csv"), Reading(encoding="gb18030"))
    (chunk,) = read(source)
    assert chunk.rows["user"].to_pylist() == ["张三".encode(), b"\xff\xff"]
    assert chunk.rows["item"].to_pylist() == [b"i1", b"i2"]


def test_an_unknown_encoding_is_refused_with_examples() -> None:
    for wrong in ("klingon", "zip"):
        with pytest.raises(ValueError, match=f"--encoding '{wrong}' is not a known encoding; use e.g. cp1252"):
            Reading(encoding=wrong)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("naïve café £5", "cp1252"),
        ("Größe: XL, Farbe: weiß", "cp1252"),
        ("羽绒服 男士", "gb18030"),
        ("Тёплая куртка", "cp1251"),
        ("plain", "utf-16"),
    ],
)
def test_the_encoding_of_a_value_is_guessed_from_its_bytes(text: str, encoding: str) -> None:
    assert plausible_encoding(text.encode(encoding)) == encoding


def test_a_needed_column_that_is_not_utf8_is_refused_with_file_value_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes(b"item,title\ni1,caf\xe9\n")
    (source,) = find(str(tmp_path / "items.csv"), Reading(encoding_flag="--item-encoding"))
    (chunk,) = read(source)
    check_utf8(chunk.rows, ["item"], source=source)
    with pytest.raises(DataRejected, match=r"items\.csv.*'title'.*caf\\\\xe9.*--item-encoding.*cp1252"):
        check_utf8(chunk.rows, ["title"], source=source)
    (source,) = find(str(tmp_path / "items.csv"), Reading(encoding="utf-8"))
    check_utf8(chunk.rows, ["title"], source=source)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"PAR1....", "a Parquet file"), (b"SQLite format 3\0", "an SQLite database")]
)
def test_a_binary_file_named_like_a_text_is_refused_by_its_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataRejected, match=rf"log\.csv is {kind}, not csv"):
        read_everything(tmp_path / "log.csv")


def test_binary_columns_of_parquet_are_not_taken_for_text(tmp_path: Path) -> None:
    rows = pa.table({"image": [b"\xff\xd8"]})
    pa.parquet.write_table(rows, tmp_path / "a.parquet")
    (source,) = find(str(tmp_path / "a.parquet"))
    check_utf8(rows, ["image"], source=source)
