"""A registered model answers through `mlflow.pyfunc` as the endpoint does."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import yaml

from jobs.cli.context import Context
from jobs.tracking.client import Tracking
from jobs.tracking.mlmodel import requirements
from jobs.tracking.registry import Registry
from models import FAMILIES, bundle
from models.ask import Answerer
from models.errors import BundleRejected
from models.family import Family
from models.features import write_store
from models.prepared import Prepared
from tests.kit.pictures import drawn, encoded
from tests.kit.toy_models import write_toy_model
from tests.stores import unpack

VOLATILE = "recommendation_id"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of an earlier release, one per network."""
    return unpack("0.1.0", tmp_path_factory.mktemp("models")).parent / "bundles"


def test_a_recommender_answers_a_table_like_its_endpoint(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = bundle.load(bundles / "recommender-gru", FAMILIES["recommender"]).schema.items
    rows = [
        {"history": [items[0], items[3]], "count": 4, "exclude_seen": False},
        {"history": [items[5]], "count": 2, "exclude_seen": True},
        {"history": [], "count": 3, "exclude_seen": True},
    ]
    loaded = _registered(context, "recommender", bundles / "recommender-gru", monkeypatch)

    answers = loaded.predict(pd.DataFrame(rows)).to_dict("records")

    expected = [_endpoint_answer("recommender", bundles / "recommender-gru", row) for row in rows]
    assert [_close(_stable(each)) for each in expected] == [_stable(answer, "error") for answer in answers]
    assert [answer["error"] for answer in answers] == [None, None, None]


@pytest.mark.parametrize("encode", [bytes, lambda content: base64.b64encode(content).decode()], ids=["bytes", "base64"])
def test_an_image_model_answers_bytes_and_base64_like_its_endpoint(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch, encode: Any
) -> None:
    pictures = [encoded(drawn("disc", colour, size=28)) for colour in ("red", "blue")]
    loaded = _registered(context, "image", bundles / "image-cnn", monkeypatch)

    answers = loaded.predict(pd.DataFrame({"image": [encode(each) for each in pictures]})).to_dict("records")

    expected = [_endpoint_answer("image", bundles / "image-cnn", {"image": each}) for each in pictures]
    assert [_close(each) for each in expected] == [_stable(answer, "error") for answer in answers]


def test_a_row_that_the_endpoint_refuses_has_its_reason_and_does_not_affect_the_others(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _registered(context, "image", bundles / "image-cnn", monkeypatch)

    answers = loaded.predict(pd.DataFrame({"image": [encoded(drawn("bar", "red")), b"no picture"]})).to_dict("records")

    assert answers[0]["error"] is None
    assert "image" in answers[1]["error"]
    assert answers[1]["model_version"] is None


def test_answers_are_in_the_order_of_the_rows_whatever_the_index(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _registered(context, "recommender", bundles / "recommender-gru", monkeypatch)
    rows = pd.DataFrame({"history": [[], [], []], "count": [1, 2, 3]})
    for index in ([2, 0, 1], [5, 5, 9], ["a", "b", "c"]):
        answers = loaded.predict(rows.set_axis(index, axis="index"))
        assert [len(items) for items in answers["items"]] == [1, 2, 3]
        assert list(answers.index) == index


def test_a_table_without_a_known_column_is_an_error_that_names_the_fields(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _registered(context, "recommender", bundles / "recommender-gru", monkeypatch)
    with pytest.raises(ValueError, match="no column is a field of a request; the fields are user_id, session_id, his"):
        loaded.predict(pd.DataFrame({"customer": ["17850"]}))


def test_without_the_feature_store_a_request_that_needs_it_is_an_error_and_with_it_an_answer(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tmp_path / "features.sqlite"
    write_store(features, toy.features, toy_data)
    directory = write_toy_model(toy, toy_data, tmp_path / "model")
    asked = pd.DataFrame({"visitor_id": ["v00001"]})

    without = _registered(context, "toy", directory, monkeypatch).predict(asked)
    with_store = mlflow.pyfunc.load_model("models:/toy@champion", model_config={"features": str(features)})

    assert "visitor of 'v00001' is in the feature store" in without["error"][0]
    answer = with_store.predict(asked)
    assert answer["error"][0] is None
    assert answer["model_version"][0] == "1"


def test_a_registered_version_says_what_it_takes_gives_and_needs(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = bundles / "recommender-transitions"
    loaded = _registered(context, "recommender", directory, monkeypatch)

    signature = loaded.metadata.signature
    assert {column.name: column.required for column in signature.inputs}["user_id"] is False
    assert {"recommendation_id", "items", "source", "model_version", "error"} <= set(signature.outputs.input_names())
    assert "history" in loaded.metadata.load_input_example(_location(context, "recommender"))
    needed = requirements(directory)
    assert [line for line in needed if line.startswith("torch==")]
    assert [line for line in needed if line.startswith("scipy==")], "an extra of its family"
    assert not [line for line in needed if line.startswith(("ray", "shopkeeper=="))]


def test_nothing_that_is_stored_for_mlflow_is_a_pickle(
    context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _registered(context, "recommender", bundles / "recommender-transitions", monkeypatch)

    location = Path(_location(context, "recommender"))

    flavors = yaml.safe_load((location / "MLmodel").read_text())["flavors"]
    assert flavors["python_function"]["loader_module"] == "jobs.prediction.pyfunc"
    assert list(flavors) == ["python_function"]
    assert not [path for path in location.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt")]


def test_a_damaged_model_is_refused(context: Context, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _registered(context, "recommender", bundles / "recommender-transitions", monkeypatch)
    (Path(_location(context, "recommender")) / "config.json").write_text("{}")

    with pytest.raises(BundleRejected, match=r"config\.json differs from its manifest"):
        mlflow.pyfunc.load_model("models:/recommender@champion")


def _registered(context: Context, name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The champion as a user of MLflow loads it."""
    tracking = Tracking(context)
    registry = Registry(tracking)
    registry.set_alias(name, "champion", registry.register(name, None, directory, {}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", tracking.uri)
    return mlflow.pyfunc.load_model(f"models:/{name}@champion")


def _location(context: Context, name: str) -> str:
    return Registry(Tracking(context)).location(name, "1").removeprefix("file://")


def _endpoint_answer(name: str, directory: Path, row: dict[str, Any]) -> dict[str, Any]:
    family = FAMILIES[name]
    loaded = bundle.load(directory, family)
    answerer = Answerer(family, family.endpoints[0], loaded.network, loaded.schema, "1")
    response: dict[str, Any] = answerer(family.endpoints[0].Request(**row)).model_dump(mode="json")
    return response


def _stable(answer: dict[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in (VOLATILE, *left_out)}


def _close(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, list):
        return [_close(each) for each in value]
    return {name: _close(each) for name, each in value.items()} if isinstance(value, dict) else value
