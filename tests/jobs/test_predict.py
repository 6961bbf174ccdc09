"""Batch prediction: every row gets an answer or an error, and finished parts are not recomputed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import predict
from jobs.cli.context import Context, Outcome, UsageFailure
from jobs.predict import EveryRowFailed, PartAnswerer, make_recipe, plan_key
from jobs.prediction import parts as prediction_parts
from jobs.prediction import working_directory
from jobs.prediction.answer_table import answer_schema
from jobs.prediction.input_table import Columns, find_input
from jobs.prediction.parts import plan_parts
from jobs.tracking.model_uri import locate_model
from models.errors import DataRejected
from models.family import Family
from models.prepared import Prepared
from models.recommender.endpoints import RecommendationResponse
from tests.kit.toy_models import write_toy_model

VISITORS = Columns({"visitor_id": "visitor_id"}, ("visitor_id",))


@pytest.fixture
def model(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "model")


def test_answers_are_in_the_order_of_the_input(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    visitors = [f"v{number:05d}" for number in range(0, 800, 7)]
    users = _table(tmp_path / "users.parquet", {"visitor_id": visitors, "segment": list(range(len(visitors)))})
    outcome = _predict(context, toy, model, users, tmp_path / "out.parquet")
    answers = pq.read_table(tmp_path / "out.parquet").to_pydict()
    numbers = json.loads((toy_data.path / "visitors.json").read_text())
    assert answers["visitor_id"] == visitors
    assert answers["segment"] == list(range(len(visitors)))
    assert answers["colour"] == [_colour(*numbers[visitor]) for visitor in visitors]
    assert set(answers["model_version"]) == {"model"} and set(answers["error"]) == {None}
    assert (outcome.metrics["rows"], outcome.metrics["errors"]) == (len(visitors), 0)


def test_an_invalid_row_gets_an_error_and_the_others_are_answered(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    rows = {"visitor_id": ["v00000", "nobody", None, "v00001"], "numbers": [None, None, [1.0], None]}
    users = _table(tmp_path / "users.parquet", rows)
    outcome = _predict(context, toy, model, users, tmp_path / "out.parquet")
    answers = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["colour"] is None for row in answers] == [False, True, True, False]
    assert answers[1]["error"] == "visitor_id 'nobody' is unknown; send numbers"
    assert answers[2]["error"].startswith("numbers.1: Field required")
    assert outcome.metrics["errors"] == 2 and outcome.status == "ok"


def test_numeric_ids_are_read_as_text(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": [17850, 17851.0]})
    with pytest.raises(EveryRowFailed):
        _predict(context, toy, model, users, tmp_path / "out.parquet")
    errors = pq.read_table(tmp_path / "out.parquet").column("error").to_pylist()
    assert errors == [f"visitor_id '{number}' is unknown; send numbers" for number in (17850, 17851)]


def test_a_rerun_skips_the_finished_parts_of_an_interrupted_run(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_parts, "ROWS_PER_PART", 10)
    users = _table(tmp_path / "users.parquet", {"visitor_id": [f"v{number:05d}" for number in range(35)]})
    options = predict.Options(input=str(users), output=str(tmp_path / "out.parquet"), model=str(model))
    located = locate_model(context, str(model))
    parts = plan_parts([users])
    directory = working_directory.path_of(tmp_path / "out.parquet", _key(context, toy, model, options))
    directory.mkdir()
    left = PartAnswerer(make_recipe(context, toy, located, options, columns=VISITORS), parts, directory)
    left.write(parts[1])
    left.write(parts[2])
    assert not (tmp_path / "out.parquet").exists()
    outcome = predict.run(context, toy, options, None)
    answers = pq.read_table(tmp_path / "out.parquet")
    assert (outcome.details["parts"], outcome.details["parts_skipped"]) == (4, 2)
    assert answers.column("visitor_id").to_pylist() == [f"v{number:05d}" for number in range(35)]
    assert answers.column("error").null_count == 35
    assert not directory.exists()


def test_a_finished_output_is_recomputed_only_if_the_model_or_the_input_changes(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    other = write_toy_model(toy, toy_data, tmp_path / "other", sharpness=0.0)
    statuses = [
        _predict(context, toy, chosen, users, tmp_path / output).status
        for output in ("out.parquet", "out")
        for chosen in (model, model, other)
    ]
    assert statuses == ["ok", "unchanged", "ok"] * 2
    assert pq.read_table(tmp_path / "out").column("model_version").to_pylist() == ["other"]


@pytest.mark.ray
def test_two_workers_give_the_same_output_as_one(
    context: Context,
    toy: Family,
    toy_data: Prepared,
    model: Path,
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_parts, "ROWS_PER_PART", 50)
    users = _table(tmp_path / "users.parquet", {"visitor_id": [f"v{number:05d}" for number in range(230)]})
    _predict(context, toy, model, users, tmp_path / "one")
    _predict(context, toy, model, users, tmp_path / "two", workers=2)
    assert len(list((tmp_path / "two").glob("part-*.parquet"))) == 5
    assert pq.read_table(tmp_path / "one").equals(pq.read_table(tmp_path / "two"))


def test_an_empty_table_gives_an_empty_output_with_all_columns(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(pa.schema([("visitor_id", pa.string())]).empty_table(), path)
    _predict(context, toy, model, path, tmp_path / "out.parquet")
    answers = pq.read_table(tmp_path / "out.parquet")
    assert (answers.num_rows, answers.column_names) == (0, ["visitor_id", "colour", "model_version", "error"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"visitor": ["v00000"]},
            r"no column of .*users\.parquet \(visitor\) is a field of a request: numbers, visitor_id; "
            r"name one, such as --columns visitor_id=visitor",
        ),
        (
            {"visitor_id": ["v00000"], "colour": ["red"]},
            r"the column 'colour' of .* has the name of an output column",
        ),
    ],
)
def test_columns_that_do_not_fit_a_request_are_reported(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, rows: dict[str, Any], message: str
) -> None:
    users = _table(tmp_path / "users.parquet", rows)
    with pytest.raises(UsageFailure, match=message):
        _predict(context, toy, model, users, tmp_path / "out.parquet")


def test_a_truncated_parquet_file_is_rejected_by_name(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"] * 100})
    users.write_bytes(users.read_bytes()[:-20])
    with pytest.raises(DataRejected, match=r"users\.parquet is not a readable Parquet file"):
        _predict(context, toy, model, users, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_directory_that_predict_did_not_write_is_not_overwritten(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageFailure, match="is a directory that predict did not write"):
        _predict(context, toy, model, users, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("output", ["answers", "answers.parquet"])
def test_directories_and_files_of_the_user_next_to_the_output_stay(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, output: str
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    (tmp_path / "pp").mkdir()
    _predict(context, toy, model, users, tmp_path / "pp" / output)
    kept = [tmp_path / "pp" / f".{output}.{suffix}" for suffix in ("backup", "old", "0123456789abcdef", "20240101")]
    for directory in kept:
        directory.mkdir()
        (directory / "notes.txt").write_text("mine")
    dated = tmp_path / "pp" / f".{output}.20240102"
    dated.write_text("a copy of the user's")
    os.utime(dated, (0, 0))
    other = write_toy_model(toy, toy_data, tmp_path / "other", sharpness=0.0)

    _predict(context, toy, other, users, tmp_path / "pp" / output)

    assert all((directory / "notes.txt").read_text() == "mine" for directory in kept) and dated.is_file()


@pytest.mark.parametrize("output", ["answers", "answers.parquet"])
def test_only_working_directories_that_no_process_uses_are_removed(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, output: str
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    path, used, stale = tmp_path / "pp" / output, "a" * 64, "b" * 64
    with pytest.raises(KeyboardInterrupt), working_directory.opened(path, stale) as left:
        (left / "part-00000.parquet").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), working_directory.opened(path, used) as directory:
        (directory / "part-00000.parquet").touch()
        _predict(context, toy, model, users, path)
        names = {each.name for each in path.parent.iterdir()}
        assert names == {output, directory.name} and (directory / "part-00000.parquet").is_file()
        raise KeyboardInterrupt
    _predict(context, toy, model, users, path)
    assert {each.name for each in path.parent.iterdir()} == {output}


def test_a_second_process_with_the_same_plan_is_refused_and_takes_over_when_the_first_is_gone(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    options = predict.Options(input=str(users), output=str(tmp_path / "out"), model=str(model))
    key = _key(context, toy, model, options)
    with working_directory.opened(tmp_path / "out", key):
        with pytest.raises(UsageFailure, match="another predict is writing the same answers"):
            predict.run(context, toy, options, None)
        assert working_directory.path_of(tmp_path / "out", key).is_dir()

    assert predict.run(context, toy, options, None).status == "ok"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"part-00000.parquet", working_directory.PLAN}


def test_a_previous_output_under_the_name_of_the_working_directory_gives_no_answers_and_is_removed(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    options = predict.Options(input=str(users), output=str(tmp_path / "out"), model=str(model))
    key = _key(context, toy, model, options)
    _predict(context, toy, write_toy_model(toy, toy_data, tmp_path / "other"), users, tmp_path / "out")
    (tmp_path / "out").rename(working_directory.path_of(tmp_path / "out", key))

    predict.run(context, toy, options, None)

    assert pq.read_table(tmp_path / "out").column("model_version").to_pylist() == ["model"]
    _predict(context, toy, tmp_path / "other", users, tmp_path / "left")
    (tmp_path / "left").rename(working_directory.path_of(tmp_path / "out", key))
    assert predict.run(context, toy, options, None).status == "unchanged"
    assert not working_directory.path_of(tmp_path / "out", key).exists()


def test_a_working_directory_that_vanishes_is_not_created_again(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    options = predict.Options(input=str(users), output=str(tmp_path / "out"), model=str(model))
    parts, directory = plan_parts([users]), tmp_path / "vanished"
    answerer = PartAnswerer(
        make_recipe(context, toy, locate_model(context, str(model)), options, columns=VISITORS), parts, directory
    )

    with pytest.raises(FileNotFoundError):
        answerer.write(parts[0])

    assert not directory.exists()


@pytest.mark.parametrize("output", ["answers", "answers.parquet"])
@pytest.mark.parametrize("exists", [True, False], ids=["existing", "dangling"])
def test_a_symlink_as_output_is_followed(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, output: str, exists: bool
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": ["v00000"]})
    real, link = tmp_path / "disk" / output, tmp_path / f"link-{output}"
    if exists:
        _predict(context, toy, write_toy_model(toy, toy_data, tmp_path / "other"), users, real)
    link.symlink_to(real)

    _predict(context, toy, model, users, link)

    assert link.is_symlink() and not real.is_symlink()
    assert pq.read_table(real).column("model_version").to_pylist() == ["model"]
    assert [path.name for path in real.parent.iterdir()] == [output]
    assert _predict(context, toy, model, users, link).status == "unchanged"


def test_fields_given_by_set_must_be_fields_of_the_request(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    users = _table(tmp_path / "users.parquet", {"visitor_id": [None, "v00000"]})
    _predict(context, toy, model, users, tmp_path / "out.parquet", fields=("numbers=[3,3]",))
    assert pq.read_table(tmp_path / "out.parquet").column("colour").to_pylist() == ["red", "red"]
    with pytest.raises(UsageFailure, match="a request has no field 'counts'"):
        _predict(context, toy, model, users, tmp_path / "out.parquet", fields=("counts=3",))


def test_nested_answers_become_lists_of_structs() -> None:
    columns = answer_schema(RecommendationResponse)
    items = pa.list_(pa.struct([("item_id", pa.string()), ("score", pa.float64()), ("reason", pa.string())]))
    assert columns.field("items").type == items
    assert columns.names == ["recommendation_id", "model_version", "source", "items", "error"]


def _predict(
    context: Context,
    toy: Family,
    model: Path,
    users: Path,
    output: Path,
    *,
    workers: int = 1,
    fields: tuple[str, ...] = (),
) -> Outcome:
    options = predict.Options(input=str(users), output=str(output), model=str(model), workers=workers, set=fields)
    return predict.run(context, toy, options, None)


def _key(context: Context, toy: Family, model: Path, options: predict.Options) -> str:
    given = find_input(toy, options.input, reading=options.reading)
    return plan_key(context, toy, locate_model(context, str(model)), options, given=given)


def _table(path: Path, columns: Mapping[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _colour(warmth: float, brightness: float) -> str:
    sums = {"blue": 0.3 - brightness, "green": brightness - warmth, "red": warmth + brightness}
    return max(sums, key=lambda name: sums[name])
