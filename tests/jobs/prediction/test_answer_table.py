"""Batch prediction of optional parts of a family: several examples per request, files, slow answers, live features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import predict
from jobs.cli.context import Context
from models import FAMILIES
from models.family import Family
from models.features import ABSENT, Change, FeatureStore, create_live_store
from tests.kit import toy_extras
from tests.kit.toy_extras import BASKETS, SOUNDS, VISITS, Basket, Gate, Visit, first, slow
from tests.kit.toy_models import write_toy_model


@dataclasses.dataclass(frozen=True)
class Shop:
    """A store with prepared data and a model of the toy."""

    context: Context
    model: Path
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def live_store(self) -> Path:
        return self.context.store.live_feature_store("toy")

    def predict(self, family: Family, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows of the answers to a table."""
        self.monkeypatch.setitem(FAMILIES, "toy", family)
        pq.write_table(pa.table(columns), self.directory / "in.parquet")
        output = self.directory / "out.parquet"
        options = predict.Options(
            input=str(self.directory / "in.parquet"), output=str(output), model=str(self.model), batch_size=4
        )
        predict.run(self.context, family, options, None)
        rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
        return rows


@pytest.fixture
def shop(context: Context, toy: Family, toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(context, write_toy_model(toy, toy_data, tmp_path / "model"), tmp_path, monkeypatch)


def test_a_basket_gets_one_colour_per_item_in_order(shop: Shop) -> None:
    baskets = [[[2.0, 2.0], [0.0, -3.0], [-3.0, 3.0]], [], [[0.0, -3.0]]]

    rows = shop.predict(first(BASKETS, golden_request=Basket()), {"items": baskets})

    assert [row["colours"] for row in rows] == [["red", "blue", "green"], [], ["blue"]]
    assert [row["error"] for row in rows] == [None] * 3


def test_a_bad_item_fails_its_own_basket_only(shop: Shop) -> None:
    baskets = [[[2.0, 2.0]], [[2.0, 2.0], [5000.0, 0.0]], [[0.0, -3.0]]]

    rows = shop.predict(first(BASKETS, golden_request=Basket()), {"items": baskets})

    assert [row["colours"] for row in rows] == [["red"], None, ["blue"]]
    assert rows[1]["error"] == "an item is hotter than 1000"


def test_file_answers_are_a_binary_column(shop: Shop) -> None:
    rows = shop.predict(first(SOUNDS), {"numbers": [[2.0, 2.0], [0.0, -3.0]]})

    assert pq.read_schema(shop.directory / "out.parquet").field("content").type == pa.binary()
    assert [len(row["content"]) for row in rows] == [44 + 2 * 240, 44 + 2 * 80]
    assert {(row["content"][:4], row["media_type"], row["error"]) for row in rows} == {(b"RIFF", "audio/wav", None)}


def test_an_answer_that_times_out_is_an_error_and_the_others_are_answered(shop: Shop) -> None:
    gate = Gate()

    rows = shop.predict(first(slow(gate, timeout_s=0.5)), {"numbers": [[-3.0, 3.0], [2.0, 2.0], [0.0, -3.0]]})
    gate.is_open.set()

    assert [row["colour"] for row in rows] == ["green", None, "blue"]
    assert rows[1]["error"] == "the answer took longer than 0.5 s"


def test_live_features_are_read_but_not_written(shop: Shop) -> None:
    visits, columns = first(VISITS, golden_request=Visit(visitor_id="")), {"visitor_id": ["ann", "ann", "bob"]}
    assert [row["number"] for row in shop.predict(visits, columns)] == [1, 1, 1], "there must be no live store yet"

    create_live_store(shop.live_store)
    store = FeatureStore(shop.live_store)
    store.compare_and_set([Change("notes", "ann", ["a", "b"], ABSENT)])
    before = store.state()

    assert [row["number"] for row in shop.predict(visits, columns)] == [3, 3, 1]
    assert store.state() == before


def test_answers_are_recomputed_after_live_features_change(shop: Shop) -> None:
    visits, columns = first(VISITS, golden_request=Visit(visitor_id="")), {"visitor_id": ["ann"]}
    create_live_store(shop.live_store)
    numbers = [shop.predict(visits, columns)[0]["number"]]
    FeatureStore(shop.live_store).compare_and_set([Change("notes", "ann", ["a"], ABSENT)])

    numbers.append(shop.predict(visits, columns)[0]["number"])

    assert numbers == [1, 2]


def test_a_family_with_live_features_only_needs_no_prepared_data(shop: Shop) -> None:
    visits = dataclasses.replace(first(VISITS, golden_request=Visit(visitor_id="")), features=[toy_extras.NOTES])
    (shop.context.store.data("toy") / "CURRENT").unlink()

    assert [row["number"] for row in shop.predict(visits, {"visitor_id": ["ann"]})] == [1]
