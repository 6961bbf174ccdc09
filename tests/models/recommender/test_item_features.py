"""Features from the item table, and the cold-start items that they describe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.errors import DataRejected
from models.prepared import Prepared
from models.raw.quarantine import Quarantine
from models.raw.tables import find
from models.recommender import FAMILY
from models.recommender.config import Config
from models.recommender.data import collate
from models.recommender.held_out import Example
from models.recommender.item_features import find_nearest_neighbours, read_features
from models.recommender.networks.build import build, initialise
from models.recommender.prepare.item_table import read_items
from models.recommender.schema import Schema
from tests.kit.logs import ITEMS_OF_KIND, KINDS, shop_of_kinds


def features_of(table: dict[str, list[Any]]) -> list[set[str]]:
    found = read_features(pa.table(table))
    return [
        {found.names[place] for place in found.places[found.starts[row + 1] : found.starts[row + 2]]}
        for row in range(len(found.starts) - 2)
    ]


def test_words_values_and_numbers_become_features_that_items_share() -> None:
    table: dict[str, list[Any]] = {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Rote Tasse!", "rote  Kanne", "红茶", "红 茶杯"],
        "genre": ["Action|Sci-Fi", "sci-fi", None, ""],
        "brand": [7, 7, 8, 9],
        "price": [1.0, 2.0, None, 2.0],
    }

    a, b, c, d = features_of(table)

    assert {"title=rote", "genre=sci", "genre=fi", "genre=sci-fi", "brand=7"} <= a & b
    assert c == d - {name for name in d if name.startswith("price")} == {"title=红", "title=茶"}
    assert b - a == d & b  # the range of the price
    assert not any("tasse" in name or "action" in name for name in a), "only one item has it"


def test_a_table_without_attributes_or_with_no_shared_one_gives_no_features() -> None:
    assert features_of({"item_id": ["a", "b"]}) == [set(), set()]
    assert features_of({"item_id": ["a", "b"], "title": ["x", None], "price": [None, 1.5]}) == [set(), set()]


def test_the_nearest_neighbours_of_a_cold_start_item_are_the_most_similar_items_with_events() -> None:
    words = [["green", "tea"], ["black", "tea"], ["green", "tea"], ["red", "saw"], ["red", "saw"]]
    table = pa.table({"item_id": list("abcde"), "title": [" ".join(both) for both in words]})
    has_events = np.array([False, True, True, False, True, False])

    weights = find_nearest_neighbours(read_features(table).matrix(), has_events).matrix(6).toarray()

    assert weights[[0, 1, 2, 4]].sum() == 0
    assert weights[3].argmax() == 1
    assert 0 < weights[3, 2] < weights[3, 1]
    assert np.allclose(weights[[3, 5]].sum(1), 1)
    assert weights[5, 4] == 1


def test_vectors_of_similar_items_share_most_bins_of_their_principal_components(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(3, 12))
    vectors = [(centres[place % 3] + draw.normal(scale=0.05, size=12)).tolist() for place in range(30)]
    rows = [{"item_id": f"i{place}", "look": vector} for place, vector in enumerate(vectors)]
    source = tmp_path / "items.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in [*rows, {"item_id": "i30", "look": None}]))
    vocabulary = pa.array([f"i{place}" for place in range(31)])
    with Quarantine(tmp_path / "bad.parquet") as quarantine:
        table, _ = read_items(find(str(source)), columns={}, vocabulary=vocabulary, quarantine=quarantine)

    features = read_features(table).matrix()

    assert table["look"].type == pa.list_(pa.float32())
    assert features[[31]].nnz == 0
    weights = find_nearest_neighbours(features, np.arange(32) != 1).matrix(32).toarray()[1]
    assert weights[[item for item in range(1, 31) if item % 3 == 1]].sum() > 0.6


@pytest.mark.parametrize("vectors", [[[0.5] * 9, [0.5] * 8], [[0.5] * 9, ["x"] * 9]])
def test_vectors_of_two_lengths_or_with_words_are_rejected(vectors: list[Any], tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a", "b"], "look": ["|".join(map(str, vector)) for vector in vectors]})
    source = tmp_path / "items.parquet"
    pq.write_table(table, source)
    with Quarantine(tmp_path / "bad.parquet") as quarantine, pytest.raises(DataRejected, match="vector"):
        read_items(find(str(source)), columns={}, vocabulary=table["item_id"].combine_chunks(), quarantine=quarantine)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return shop_of_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("network", ["transformer", "two_tower", "transitions"])
@pytest.mark.parametrize("blend", [True, False])
def test_a_cold_start_item_is_recommended_to_users_of_similar_items(
    network: Any, blend: bool, data: Prepared, tmp_path: Path
) -> None:
    config = Config(network=network, blend=blend, dim=16, max_length=10, batch_size=16, epochs=4, precision="fp32")
    trained = run_training(
        FAMILY, config=config, data=data, directory=tmp_path, worker=WorkerContext(), report=lambda _: None
    )
    loaded = bundle.load(trained.best, FAMILY)
    schema: Schema = loaded.schema

    for kind in KINDS:
        history = [schema.index[f"{kind}{place}"] for place in (1, 2, 3)]
        cold = [schema.index[f"{other}{ITEMS_OF_KIND - 1}"] for other in KINDS]
        example = Example(history=history, count=len(schema.items), allowed=cold)
        answer = loaded.network.predict(collate([example]))[0]
        assert schema.items[answer.items[0] - 1].startswith(kind)
        whole = loaded.network.predict(collate([dataclasses.replace(example, allowed=None)]))[0]
        place = whole.items.index(answer.items[0])
        assert place < ITEMS_OF_KIND + 2, f"the cold-start item of {kind} has rank {place + 1}"


def test_a_cold_start_item_has_the_mean_embedding_of_its_neighbours(data: Prepared) -> None:
    schema = data.schema(Schema)
    model = build(Config(), schema)
    torch.manual_seed(0)
    initialise(model, data, schema)

    table = model.eval().learner.items.table()  # type: ignore[union-attr]

    cold = schema.index[f"tea{ITEMS_OF_KIND - 1}"]
    similar = [schema.index[f"tea{place}"] for place in range(ITEMS_OF_KIND - 1)]
    assert torch.allclose(table[cold], table[similar].mean(0), atol=1e-6)
    assert not torch.allclose(table[cold], table[schema.index["tools0"]], atol=1e-2)


def test_without_features_an_item_has_only_its_id_embedding(data: Prepared) -> None:
    model = build(Config(), data.schema(Schema).model_copy(update={"num_features": 0}))

    assert not any("features" in name for name in model.state_dict())
    assert model.learner.items.table() is model.learner.items.weight  # type: ignore[union-attr]
