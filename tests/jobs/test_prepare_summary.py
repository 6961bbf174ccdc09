"""The summary of `prepare`: a few lines with what people need, each fact once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.__main__ import main
from jobs.prepare_summary import summary_of
from models.prepared import Prepared
from tests.kit.logs import make_log, write_csv

CARD: dict[str, Any] = {
    "family": "image",
    "rows": 1234,
    "kept": 1220,
    "duplicates": 1,
    "bad": {"empty": 3, "truncated": 10, "url": 0},
    "items": 7,
    "unlabelled": 0,
    "splits": {"train": 1000, "val": 120, "test": 100},
    "classes": {"type": {f"c{place}": 20 - place for place in range(10)}},
    "joins": {"item table": {"ids": 9, "matched": 8, "table_ids": 11, "table_matched": 8, "hint": "1 more ids would"}},
    "notes": ["pred/ has 15 images and is left out"],
    "diagnosis": {"a": {"b": 1}},
}


def test_the_summary_has_counts_reasons_classes_splits_joins_and_notes_in_a_line_each() -> None:
    lines = summary_of(CARD, Path("/store/data"), status="ok", seconds=1.25).splitlines()

    assert lines == [
        "  1,234 rows read: 1,220 kept, 1 duplicate",
        "  bad: 10 truncated, 3 empty; quarantine/ has them",
        "  items: 7",
        "  type: 10 classes, training examples: c0 20, c1 19, c2 18, c3 17, c4 16, c5 15, c6 14, c7 13 and 2 more",
        "  splits: train 1,000; val 120; test 100",
        "  item table: 8 of 9 ids have a row, 8 of its 11 ids are in the data (1 more ids would)",
        "  - pred/ has 15 images and is left out",
        "  data: /store/data (1.2 s)",
    ]


def test_a_family_whose_card_has_rows_only_is_summed_up_too() -> None:
    assert summary_of({"rows": 5, "bad": {}}, Path("d"), status="dry-run", seconds=0.0).splitlines() == [
        "  5 rows read",
        "  bad: none",
        "  not written, would be in d (0.0 s)",
    ]


def test_prepare_says_each_note_once_and_keeps_settings_in_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    raw = write_csv(tmp_path / "log" / "a.csv", make_log()).parent
    (raw / "readme.txt").write_text("about this log\n")
    arguments = ["prepare", "recommender", "--raw", str(raw), "--store", str(tmp_path / "store")]

    assert main([*arguments, "--dry-run"]) == 0
    assert "  config:" in capsys.readouterr().out
    assert main(arguments) == 0
    shown = capsys.readouterr()

    assert " ".join((shown.out + shown.err).split()).count("readme.txt: text next to tables (1 file)") == 1
    assert "diagnosis" not in shown.out
    (raw / "a.csv").write_text("user_id,item_id,timestamp\nNA,i1,2024-01-01\n")
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert "readme.txt: text next to tables (1 file)" in shown.err
    assert "1 missing_user_id, e.g. 'NA'" in shown.err


def test_equal_data_of_other_files_have_the_quarantine_of_these(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "product_id,date,units\n" + "".join(f"a,2024-01-{day:02d},{day}\n" for day in range(1, 32))
    shown = []
    for number, bad in enumerate(("many", "few")):
        raw = tmp_path / f"sales{number}.csv"
        raw.write_text(f"{good}a,2024-02-01,{bad}\n", encoding="utf-8")
        flags = ["--horizon", "5", "--max-bad-fraction", "0.5", "--store", str(tmp_path / "store"), "--json"]
        assert main(["prepare", "forecast", "--raw", str(raw), *flags]) == 0
        shown.append(json.loads(capsys.readouterr().out.splitlines()[-1]))

    assert [one["status"] for one in shown] == ["ok", "unchanged"]
    rows = pq.read_table(Path(shown[1]["data"]) / "quarantine").column("row").to_pylist()
    assert [json.loads(row)["units"] for row in rows] == ["few"]
    assert Prepared(Path(shown[1]["data"])).card()["raw"].endswith("sales1.csv")
