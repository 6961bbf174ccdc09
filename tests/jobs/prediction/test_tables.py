"""Batch prediction reads what `prepare` reads and writes nested or long tables; rows without an answer are counted."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import predict
from jobs.cli.context import EXIT_DATA_REJECTED, Context, Outcome, Store, UsageFailure
from jobs.predict import EveryRowFailed
from jobs.prediction.parts import Part
from models.errors import DataRejected
from models.prepared import Prepared
from tests.kit.shop import SHOP, write_model

EVENTS = [(f"{17800 + user}", f"item-{(user + step) % 20}") for user in range(40) for step in range(6)]


@dataclass(frozen=True)
class Predictor:
    """A store with prepared data, and a model without training."""

    context: Context
    model: Path

    def __call__(self, source: Path | str, output: Path, **options: Any) -> Outcome:
        given = predict.Options(str(source), str(output), model=str(self.model), set=("count=3",), **options)
        return predict.run(self.context, SHOP, given, None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """Prepared events of 40 users on 20 items with prices."""
    store = Store(tmp_path_factory.mktemp("shop"))
    rows = (f"{user},{item},{1_700_000_000 + 60 * place}" for place, (user, item) in enumerate(EVENTS))
    lines = ["user_id,item_id,timestamp", *rows]
    (store.root / "log.csv").write_text("\n".join(lines))
    items = ["item_id,price,brand", *(f"item-{number},{number}.5,{'AB'[number % 2]}" for number in range(20))]
    (store.root / "items.csv").write_text("\n".join(items))
    data = store.data("recommender") / "small"
    data.mkdir(parents=True)
    settings = SHOP.PrepareConfig(
        raw=str(store.root / "log.csv"), items=str(store.root / "items.csv"), split="leave-one-out"
    )
    with ThreadPoolExecutor(1) as executor:
        SHOP.prepare(settings, data, executor)
    (store.data("recommender") / "CURRENT").write_text(data.name)
    return store, write_model(SHOP, Prepared(data), store.root / "model", network="transitions")


@pytest.fixture
def predictor(shop: tuple[Store, Path], empty_database: Path) -> Predictor:
    """Predicts with it."""
    database = shop[0].root / "mlflow.db"
    if not database.exists():
        database.write_bytes(empty_database.read_bytes())
    return Predictor(Context(store=shop[0]), shop[1])


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "jsonl", "parquet", "folder"])
def test_every_kind_of_table_gives_the_same_answers(predictor: Predictor, tmp_path: Path, kind: str) -> None:
    users = ["17800", "17811", "17839"]
    source = tmp_path / f"users.{kind}"
    match kind:
        case "csv" | "tsv":
            separator = "," if kind == "csv" else "\t"
            source.write_text("".join(f"{user}{separator}x\n" for user in ["user_id", *users]))
        case "csv.gz":
            source.write_bytes(gzip.compress("".join(f"{user},x\n" for user in ["user_id", *users]).encode()))
        case "jsonl":
            source.write_text("".join(json.dumps({"user_id": int(user)}) + "\n" for user in users))
        case "parquet":
            pq.write_table(pa.table({"user_id": [float(user) for user in users]}), source)
        case _:
            source.mkdir()
            for number, user in enumerate(users):
                (source / f"{number}.csv").write_text(f"user_id\n{user}\n")

    outcome = predictor(source, tmp_path / "out.parquet")

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (outcome.metrics["rows"], outcome.metrics["errors"]) == (3, 0)
    assert [str(int(float(row["user_id"]))) for row in rows] == users
    assert [row["source"] for row in rows] == ["personal"] * 3
    assert rows[1]["items"][0]["item_id"] == "item-17"


def test_mapped_columns_are_read_and_key_columns_are_copied(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.csv"
    source.write_text('Customer ID,segment,Last,error\n 17800.0 ,gold,item-3|item-4,x\n,iron,"[""item-7""]",y\n')

    predictor(source, tmp_path / "out.parquet", columns="user_id=Customer ID,history=Last", keys=("segment",))

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["segment", "recommendation_id", "model_version", "source", "items", "error"]
    first, second = table.to_pylist()
    assert (first["segment"], second["segment"]) == ("gold", "iron")
    assert first["items"][0]["item_id"] == "item-5" and second["items"][0]["item_id"] == "item-8"


def test_a_filter_in_a_cell_is_json(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.csv"
    cells = [{"brand": "B", "price": {"min": 3, "max": 9.5}}, {"colour": "red"}]
    rows: list[list[Any]] = [["user_id", "filter"], *([17800, json.dumps(cell)] for cell in cells), [17800, "{"]]
    with source.open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    outcome = predictor(source, tmp_path / "out.parquet")

    good, unknown, broken = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {item["item_id"] for item in good["items"]} <= {"item-3", "item-5", "item-7", "item-9"}
    assert unknown["error"] == "filter 'colour': no item has such an attribute; the attributes are brand, price"
    assert broken["error"].startswith("'{' is not JSON")
    assert outcome.metrics["errors"] == 2


def test_filters_of_json_lines_count_next_to_lines_of_other_types(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.jsonl"
    filters: list[Any] = [{"price": {"min": 9, "max": 11}}, {"price": 7.5}, {"brand": "B"}]
    lines = [json.dumps({"user_id": 17800 + place, "filter": each}) for place, each in enumerate(filters)]
    source.write_text("\n".join([*lines, '{"user_id": "x", "filter": {}}', "{"]))

    predictor(source, tmp_path / "out.jsonl")

    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = [{item["item_id"] for item in row["items"] or ()} for row in rows]
    assert found[0] == {"item-9", "item-10"} and found[1] == {"item-7"}
    assert len(found[2]) == len(found[3]) == 3 and all(int(item[-1]) % 2 for item in found[2])
    assert rows[4]["error"] == "broken_json: '{'"


def test_a_history_of_json_lines_may_mix_items_and_events(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.jsonl"
    source.write_text('{"history": ["item-2", {"item_id": "item-7"}]}\n{"history": ["item-2", "item-7"]}\n')

    predictor(source, tmp_path / "out.jsonl")

    mixed, plain = (json.loads(line)["items"] for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert mixed == plain


def test_objects_without_fields_are_no_filter(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_text('{"user_id": "17800", "filter": {}}\n')
    assert predictor(tmp_path / "users.jsonl", tmp_path / "out.jsonl").metrics["errors"] == 0


def test_a_csv_file_without_rows_has_an_empty_output(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,segment\n")
    assert predictor(tmp_path / "users.csv", tmp_path / "out.parquet").metrics["rows"] == 0
    assert pq.read_table(tmp_path / "out.parquet").column_names[:2] == ["user_id", "segment"]


def test_the_input_is_never_replaced_and_no_output_becomes_an_input(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id\n17800\n")
    (tmp_path / "link").symlink_to(folder)
    for source, output in [("a.csv", "a.csv"), ("a.csv", "../link/a.csv"), ("a.csv", "."), (".", ".")]:
        with pytest.raises(UsageFailure, match="would replace the input"):
            predictor(folder / source, folder / output)
    with pytest.raises(UsageFailure, match=r"is in the folder .*, whose tables are all read; name another"):
        predictor(folder, folder / "out.csv")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("a.csv", "user_id\n17800\n")]


def test_an_empty_directory_with_the_name_of_a_file_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n17800\n")
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(UsageFailure, match="is a directory that predict did not write"):
        predictor(tmp_path / "users.csv", tmp_path / "out.csv")


def test_a_key_column_named_twice_is_copied_once(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,segment\n17800,gold\n")
    predictor(tmp_path / "users.csv", tmp_path / "out.parquet", keys=("segment", "segment"))
    assert pq.read_table(tmp_path / "out.parquet").column_names.count("segment") == 1


def test_a_field_for_every_request_may_be_json_with_commas(predictor: Predictor, tmp_path: Path) -> None:
    source, output = tmp_path / "users.csv", tmp_path / "out.parquet"
    source.write_text("user_id\n17811\n")
    wanted = 'count=2,filter={"brand":["A","B"],"price":{"min":3,"max":5}}'

    predict.run(
        predictor.context,
        SHOP,
        predict.Options(str(source), str(output), model=str(predictor.model), set=(wanted,)),
        None,
    )

    (row,) = pq.read_table(output).to_pylist()
    assert {item["item_id"] for item in row["items"]} == {"item-3", "item-4"}


def test_lines_that_are_not_rows_are_errors_that_are_counted_by_reason(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.csv"
    source.write_text("user_id,note\n17800,a\n17801,b,c,d\n17802,e\n17803,f,g,h\n")

    outcome = predictor(source, tmp_path / "out.parquet")

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert outcome.status == "ok"
    assert outcome.details["error_reasons"] == {"wrong_number_of_fields: '...'": 2}
    assert [row["user_id"] for row in rows if row["error"] is None] == ["17800", "17802"]
    assert [row["error"] for row in rows if row["error"]] == [
        "wrong_number_of_fields: '17801,b,c,d'",
        "wrong_number_of_fields: '17803,f,g,h'",
    ]


@pytest.mark.parametrize("output", ["out.parquet", "out.csv", "out"])
def test_a_table_without_an_answer_is_written_and_fails_with_the_code_of_rejected_data(
    predictor: Predictor, tmp_path: Path, output: str
) -> None:
    source = tmp_path / "users.csv"
    source.write_text("user_id,count\n17800,many\n17801,0\n")

    for _ in range(2):  # again when the output is up to date
        with pytest.raises(EveryRowFailed, match="none of the 2 rows has an answer: 1 x count: Input") as failure:
            predictor(source, tmp_path / output)

    assert failure.value.exit_code == EXIT_DATA_REJECTED
    assert failure.value.details["metrics"]["errors"] == 2
    assert failure.value.details["output"] == str(tmp_path / output)
    assert (tmp_path / output).exists()


def test_the_long_layout_has_a_row_for_each_item_and_keeps_rows_without_items(
    predictor: Predictor, tmp_path: Path
) -> None:
    source = tmp_path / "users.csv"
    source.write_text('user_id,filter\n17800,{}\n17801,"{""price"": {""min"": 100}}"\n17802,"{""x"": 1}"\n')

    outcome = predictor(source, tmp_path / "out.parquet", layout="long", keys=("user_id",))

    table = pq.read_table(tmp_path / "out.parquet")
    names = ["user_id", "rank", "item_id", "score", "reason", "recommendation_id", "model_version", "source", "error"]
    assert table.column_names == names
    rows = [(row["user_id"], row["rank"], row["item_id"] is None, row["error"] is None) for row in table.to_pylist()]
    assert rows == [
        ("17800", 1, False, True),
        ("17800", 2, False, True),
        ("17800", 3, False, True),
        ("17801", None, True, True),
        ("17802", None, True, False),
    ]
    assert (outcome.metrics["rows"], outcome.metrics["errors"]) == (3, 1)


def test_csv_json_lines_and_a_directory_hold_the_same_long_rows(predictor: Predictor, tmp_path: Path) -> None:
    source = tmp_path / "users.csv"
    source.write_text('user_id,name\n17800,"a ""b"", c"\n17801,é\n')
    for output in ("long.parquet", "out.csv", "out.jsonl", "out"):
        predictor(source, tmp_path / output, layout="auto" if output == "out.csv" else "long")

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("user_id", "name", "rank", "item_id"))

    expected = [key(row) for row in pq.read_table(tmp_path / "long.parquet").to_pylist()]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [key(row) for row in csv.DictReader(file)] == expected
    assert [key(json.loads(line)) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    assert [key(row) for row in pq.read_table(tmp_path / "out").to_pylist()] == expected
    assert not list(tmp_path.glob(".*"))


def test_json_lines_are_nested_by_default(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n17800\n")

    predictor(tmp_path / "users.csv", tmp_path / "out.jsonl")

    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (row["user_id"], len(row["items"])) == ("17800", 3)


def test_an_interrupted_prediction_of_a_csv_file_goes_on(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.prediction.input_table.ROWS_PER_PART", 2)
    (tmp_path / "users.csv").write_text("user_id\n" + "".join(f"{17800 + number}\n" for number in range(5)))
    write, written = predict.PartAnswerer.write, list[int]()

    def interrupted(self: predict.PartAnswerer, part: Part) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.number)
        write(self, part)

    monkeypatch.setattr(predict.PartAnswerer, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predictor(tmp_path / "users.csv", tmp_path / "out.csv")
    monkeypatch.setattr(predict.PartAnswerer, "write", write)
    outcome = predictor(tmp_path / "users.csv", tmp_path / "out.csv")

    assert (outcome.details["parts"], outcome.details["parts_skipped"]) == (3, 2)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user_id"] for row in rows] == [str(17800 + number // 3) for number in range(15)]


@pytest.mark.parametrize(
    ("options", "output", "message"),
    [
        ({"columns": "user=user_id"}, "out.csv", "--columns: cannot parse the column mapping 'user=user_id'"),
        ({"columns": "user_id=Customer"}, "out.csv", "has no column 'Customer'; its columns are user_id, score"),
        ({"keys": ("name",)}, "out.csv", "has no column 'name'"),
        ({}, "out.csv", "the column 'score' of .* has the name of an output column; .* --keys"),
        ({"layout": "nested"}, "out.csv", "a CSV file has no lists"),
        ({}, "out.xlsx", ".xlsx is not written; use .parquet, .csv, .jsonl or a directory"),
        ({}, "out.csv.bz2", ".bz2 is not written; use .parquet, .csv, .jsonl or a directory"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(
    predictor: Predictor, tmp_path: Path, options: dict[str, Any], output: str, message: str
) -> None:
    (tmp_path / "users.csv").write_text("user_id,score\n17800,1\n")

    with pytest.raises(UsageFailure, match=message):
        predictor(tmp_path / "users.csv", tmp_path / output, **options)

    assert [path.name for path in tmp_path.iterdir()] == ["users.csv"]


def test_two_columns_of_one_name_are_rejected(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,name,name\n17800,a,b\n")

    with pytest.raises(DataRejected, match="two columns named 'name'"):
        predictor(tmp_path / "users.csv", tmp_path / "out.csv")


def test_parquet_files_with_other_types_are_read_as_one_table(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    for number, users in enumerate(([17800], [17801.0, None], ["17802"])):
        pq.write_table(pa.table({"user_id": users}), tmp_path / "users" / f"{number}.parquet")

    predictor(tmp_path / "users", tmp_path / "out.parquet")

    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["user_id"], row["source"]) for row in rows] == [
        ("17800", "personal"),
        ("17801", "personal"),
        (None, "popular"),
        ("17802", "personal"),
    ]


def test_the_fields_of_an_object_are_no_further_columns_of_the_output(predictor: Predictor, tmp_path: Path) -> None:
    request = {"user_id": "17800", "filter": {"brand": "Alder"}, "tag.a": "x"}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")

    predictor(tmp_path / "requests.jsonl", tmp_path / "out.jsonl")

    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["filter"] == {"brand": "Alder"} and row["tag.a"] == "x" and "filter.brand" not in row


def test_a_field_of_a_nested_parquet_column_may_be_mapped(predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"user": [{"id": 17800, "city": "Leeds"}, {"id": 17801, "city": None}]}), tmp_path / "q.parquet"
    )

    predictor(tmp_path / "q.parquet", tmp_path / "out.parquet", columns="user_id=user.id")

    answers = pq.read_table(tmp_path / "out.parquet")
    assert answers["user"].to_pylist()[1] == {"id": 17801, "city": None}
    assert answers["error"].null_count == 2 and all(answers["items"].to_pylist())
    assert "user.id" not in answers.column_names
