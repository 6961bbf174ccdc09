"""CSV and TSV as programs write them: delimiters, headers, quotes, escapes; no row is ever lost silently."""

from __future__ import annotations

from pathlib import Path

import pytest

import models.raw.encodings
import models.raw.quotes
from models.raw.tables import Reading, find, parse_mapping, read
from tests.models.raw.reading import Everything, read_everything

HEADER = "user,item,time,title"


def rows(num: int, title: str = "x") -> list[str]:
    return [f"u{place},i{place % 9},2024-03-{place % 28 + 1:02d}T10:00:00Z,{title}" for place in range(num)]


def read_text(folder: Path, text: str, *, name: str = "log.csv", reading: Reading | None = None) -> Everything:
    path = folder / name
    path.write_bytes(text.encode())
    return read_everything(path, reading or Reading())


def read_lines(folder: Path, lines: list[str], **how: str) -> Everything:
    return read_text(folder, "\n".join(lines) + "\n", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read(tmp_path: Path, line_end: str) -> None:
    found = read_text(tmp_path, line_end.join([HEADER, *rows(3)]) + line_end)
    assert [row["title"] for row in found.rows] == ["x"] * 3


def test_a_line_end_of_two_characters_may_be_cut_by_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\r\n".join([HEADER, *rows(40, '"two\r\nlines"')]) + "\r\n"
    for num_bytes in (61, 64, 67):
        monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", num_bytes)
        found = read_text(tmp_path, text)
        assert ([row["title"] for row in found.rows], found.broken) == (["two\nlines"] * 40, {})


def test_the_delimiter_is_the_one_that_the_rows_use(tmp_path: Path) -> None:
    text = "user\titem\ttime\tprice, EUR, net, of VAT\nu1\ti1\t5\t1,5\nu2\ti2\t6\t2,5\n"
    assert read_text(tmp_path, text).rows[1] == {
        "user": "u2",
        "item": "i2",
        "time": "6",
        "price, EUR, net, of VAT": "2,5",
    }
    text = '"user; id",item\nu1,a;b;c\nu2,d\n'
    assert read_text(tmp_path, text).rows == [{"user; id": "u1", "item": "a;b;c"}, {"user; id": "u2", "item": "d"}]


def test_the_sep_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    assert read_text(tmp_path, "sep=;\nuser;item\nu1;a,b\n").rows == [{"user": "u1", "item": "a,b"}]


def test_blanks_around_the_names_of_columns_are_no_part_of_them(tmp_path: Path) -> None:
    assert read_text(tmp_path, "\n\nuser, item \nu1,i1\n").rows == [{"user": "u1", "item": "i1"}]


def test_rows_may_end_with_a_delimiter_that_the_header_does_not_have(tmp_path: Path) -> None:
    assert read_text(tmp_path, "user,item\nu1,i1,\nu2,i2,\n").rows == [
        {"user": "u1", "item": "i1"},
        {"user": "u2", "item": "i2"},
    ]
    found = read_text(tmp_path, "user,item\nu1,i1,9\nu2,i2,8\n")
    assert (found.rows, len(found.broken["wrong_number_of_fields"])) == ([], 2)


def test_a_missing_header_row_is_inferred_and_said(tmp_path: Path) -> None:
    found = read_lines(tmp_path, rows(5))
    assert [row["column1"] for row in found.rows] == ["u0", "u1", "u2", "u3", "u4"]
    assert "no header row" in found.notes[0]
    assert "--header yes" in found.notes[0]
    assert read_lines(tmp_path, [HEADER, *rows(5)]).notes == []
    assert read_lines(tmp_path, ["2019,2020", "a,b"]).rows == [{"2019": "a", "2020": "b"}]


def test_a_flag_says_whether_there_is_a_header_row(tmp_path: Path) -> None:
    text = "\n".join(rows(2))
    assert read_text(tmp_path, text, reading=Reading(header="yes")).rows[0]["u0"] == "u1"
    text = "name,other\na,b\n"
    assert read_text(tmp_path, text, reading=Reading(header="no")).rows[0] == {"column1": "name", "column2": "other"}


def test_a_header_that_is_repeated_in_the_middle_is_no_row(tmp_path: Path) -> None:
    found = read_lines(tmp_path, [HEADER, *rows(3), HEADER, *rows(2)])
    assert (len(found.rows), found.broken) == (5, {"repeated_header": [HEADER]})


def test_a_quote_that_is_never_closed_costs_one_row_wherever_it_is(tmp_path: Path) -> None:
    for place in (0, 7, 1999):
        lines = rows(2000)
        lines[place] = lines[place][:-1] + '"best'
        found = read_lines(tmp_path, [HEADER, *lines])
        assert (len(found.rows), found.broken) == (1999, {"open_quote": [lines[place]]})


def test_two_quotes_that_are_never_closed_do_not_swallow_the_rows_between(tmp_path: Path) -> None:
    lines = rows(300)
    lines[10], lines[200] = lines[10][:-1] + '"5 inch', lines[200][:-1] + 'rack 19"'
    found = read_lines(tmp_path, [HEADER, *lines])
    assert (len(found.rows), found.broken) == (299, {"open_quote": [lines[10]]})
    assert [row["title"] for row in found.rows if row["title"] != "x"] == ['rack 19"']


def test_a_swallowed_row_of_an_even_number_of_quotes_is_found(tmp_path: Path) -> None:
    lines = rows(50)
    lines[20] = f'u20,"a"b,2024-03-01T10:00:00Z,"{"c"}'.replace('"a"b', 'a"b')
    found = read_lines(tmp_path, [HEADER, *lines])
    assert (len(found.rows), found.broken) == (49, {"open_quote": [lines[20]]})


def test_a_quote_in_a_table_of_two_columns_does_not_swallow_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["user,title", 'u1,"open', *(f"u{place},t" for place in range(20_000))]
    assert len(read_lines(tmp_path, lines).rows) == 20_000
    monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(models.raw.quotes, "MAX_VALUE_BYTES", 1024)
    found = read_lines(tmp_path, lines)
    assert (len(found.rows), found.broken) == (20_000, {"open_quote": ['u1,"open']})


@pytest.mark.parametrize(
    "value", ["two\nlines", "one, two\nred, blue, green, black", "a\n\nb", "un,\n\"q\", and\n'more'", "\n"]
)
def test_values_of_several_lines_are_read_even_if_they_have_commas(
    tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = '"' + value.replace('"', '""') + '"'
    for num_bytes in (97, 8 * 1024 * 1024):
        monkeypatch.setattr(models.raw.encodings, "BLOCK_BYTES", num_bytes)
        found = read_lines(tmp_path, [HEADER, *rows(20, quoted)])
        assert ([row["title"] for row in found.rows], found.broken) == ([value] * 20, {})


def test_a_backslash_may_escape_quotes(tmp_path: Path) -> None:
    found = read_lines(tmp_path, [HEADER, *rows(5, r'"19\" rack, C:\\dir\\"'), *rows(5, r"\N")])
    assert [row["title"] for row in found.rows] == [r'19" rack, C:\dir' + "\\"] * 5 + [r"\N"] * 5
    assert found.notes == ["backslashes escape quotes"]
    standard = read_lines(tmp_path, [HEADER, *rows(5, r'"C:\dir\"')])
    assert ([row["title"] for row in standard.rows], standard.notes) == (["C:\\dir\\"] * 5, [])


def test_a_quote_in_tsv_is_a_character_unless_the_file_quotes_values(tmp_path: Path) -> None:
    lines = [line.replace(",", "\t") for line in [HEADER, *rows(50)]]
    lines[9] = lines[9].replace("\tx", '\t"Heroes (live)')
    found = read_lines(tmp_path, lines, name="log.tsv")
    assert (len(found.rows), found.broken, found.rows[8]["title"]) == (50, {}, '"Heroes (live)')
    quoted = [line.replace(",", "\t") for line in [HEADER, *rows(3, '"a ""b""\tc"')]]
    assert [row["title"] for row in read_lines(tmp_path, quoted, name="log.tsv").rows] == ['a "b"\tc'] * 3
    all_quoted = ['"user"\t"item"', '"u1"\t"i1"']
    assert read_lines(tmp_path, all_quoted, name="log.tsv").rows == [{"user": "u1", "item": "i1"}]


def test_a_line_with_too_many_fields_that_is_not_utf8_is_separated_too(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"user,title\nu1,caf\xe9\nu2,caf\xe9,x\nu3,tea\n")
    found = read_everything(tmp_path / "log.csv")
    assert [row["user"] for row in found.rows] == ["u1", "u3"]
    assert found.broken == {"wrong_number_of_fields": ["u2,caf\\xe9,x"]}


def test_values_of_several_lines_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    lines = [f'u{n},"green\nt\xe9, strong, hot",{n}' for n in range(30)]
    (tmp_path / "log.csv").write_bytes("\n".join(["user,title,count", *lines, ""]).encode("latin-1"))
    found = read_everything(tmp_path / "log.csv")
    assert [row["user"] for row in found.rows] == [f"u{n}" for n in range(30)]
    assert {row["title"] for row in found.rows} == {"green\nt\\xe9, strong, hot"}
    assert found.broken == {}


def test_a_file_with_a_header_only_has_its_columns_and_no_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\n")
    (chunk,) = read(*find(str(tmp_path / "log.csv")))
    assert (chunk.rows.column_names, chunk.rows.num_rows, chunk.broken) == (["user", "item"], 0, {})


def test_a_long_value_of_one_line_is_read(tmp_path: Path) -> None:
    assert len(str(read_text(tmp_path, f"user,image\nu1,{'A' * 300_000}\n").rows[0]["image"])) == 300_000


def test_nul_characters_are_kept_for_the_checks_of_values(tmp_path: Path) -> None:
    assert read_text(tmp_path, "user,item\nu\0,i1\n").rows == [{"user": "u\0", "item": "i1"}]


def test_rows_in_are_rows_out_plus_broken_lines_for_any_quotes(tmp_path: Path) -> None:
    titles = ["x", '"a', 'b"', '"c"', '"d""', '"""e"""', 'f"g"h', '"i"j', "k'", '""', '"']
    lines = [rows(1, titles[place * 7 % len(titles)])[0] for place in range(200)]
    found = read_lines(tmp_path, [HEADER, *lines])
    assert len(found.rows) + sum(map(len, found.broken.values())) == 200
    assert {str(row["time"]) for row in found.rows} == {"2024-03-01T10:00:00Z"}


def test_the_name_of_a_column_may_have_commas_and_quotes() -> None:
    assert parse_mapping('user_id="Customer, ID" , item_id=i,title="5"" x"') == {
        "user_id": "Customer, ID",
        "item_id": "i",
        "title": '5" x',
    }
    with pytest.raises(ValueError, match='goes into double quotes, NAME="A, B"'):
        parse_mapping("user_id=Customer, ID,item_id=i")
