"""Live items as a model sees them: newer values win, a retrained model takes over, and any network ranks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.ask import Answerer
from models.features import FeatureStore, filled, read_stores, write_store
from models.items.item import LiveItem, LiveValue
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender.config import Config
from models.recommender.endpoints import ENDPOINTS, RecommendationRequest, SimilarItemsRequest
from models.recommender.live.catalogue import FEATURE, Catalogue, open_catalogue
from models.recommender.live.item_index import ItemIndex
from models.recommender.networks.build import build, initialise
from models.recommender.schema import Schema
from tests.kit.logs import KINDS, shop_of_kinds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return shop_of_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def store(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "features.sqlite"
    write_store(path, FAMILY.features, data)
    return path


def put(item_id: str, *, at_s: float = 1e12, is_withdrawn: bool = False, **attributes: Any) -> LiveItem:
    values = {name: LiveValue(value, at_s) for name, value in attributes.items()}
    return LiveItem(item_id, values, is_withdrawn, 1)


def view_of(data: Prepared, store: Path, *items: LiveItem) -> Catalogue:
    return open_catalogue(data.schema(Schema), store).after(items, kinds={})


def recommended(
    data: Prepared, store: Path, view: Catalogue, network: Any, request: Any, *, place: int = 0
) -> set[str]:
    schema = data.schema(Schema)
    answerer = Answerer(FAMILY, ENDPOINTS[place], network, schema, "1", live=lambda: {FEATURE: {"*": view}})
    filled_store = FeatureStore(store, read_only=True)
    found = read_stores(filled(FAMILY.features), request, filled_store=filled_store, live_store=None)
    filled_store.close()
    response: Any = answerer(request, found.values)
    return {item.item_id for item in response.items}


def network_of(data: Prepared, name: Any, *, blend: bool = True) -> Any:
    schema = data.schema(Schema)
    torch.manual_seed(0)
    network = build(Config(network=name, dim=16, max_length=10, blend=blend), schema)
    initialise(network, data, schema)
    return network.eval()


def test_a_value_counts_in_filters_only_if_it_is_newer_than_the_item_table(data: Prepared, store: Path) -> None:
    written_s = ItemIndex.open(data.schema(Schema), store).as_of_s
    request = RecommendationRequest(history=["tea1"], count=40, filter={"kind": "toys"})
    network = network_of(data, "transitions")

    older, newer = (view_of(data, store, put("tea2", kind="toys", at_s=written_s + s)) for s in (-1.0, 1.0))

    assert written_s == pytest.approx(data.card()["items_as_of_s"])
    assert "tea2" not in recommended(data, store, older, network, request)
    assert "tea2" in recommended(data, store, newer, network, request)


def test_an_item_that_a_retrained_model_knows_is_no_longer_a_new_one(data: Prepared, store: Path) -> None:
    view = view_of(data, store, put("tea1", kind="tea"), put("tea-new", kind="tea"))

    assert list(view.new.ids) == ["tea-new"]
    assert view.place("tea1") == data.schema(Schema).index["tea1"]
    assert view.describe("tea1").state == "known"


def test_the_neighbours_of_a_new_item_have_its_attribute_and_events(data: Prepared, store: Path) -> None:
    view, schema = view_of(data, store, put("tools-new", kind="tools")), data.schema(Schema)

    weights = view.new.weights[0]
    neighbours = [schema.items[item - 1] for item in view.new.neighbours[0][weights > 0].tolist()]

    assert neighbours and all(item.startswith("tools") for item in neighbours)
    assert all(schema.item_counts[schema.index[item] - 1] for item in neighbours)
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["transitions", "item_knn", "transformer", "autoencoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_recommends_a_new_item_to_users_of_its_kind(
    data: Prepared, store: Path, name: Any, kind: str
) -> None:
    view = view_of(data, store, put(f"{kind}-new", kind=kind), put("tea1", is_withdrawn=True))
    request = RecommendationRequest(history=[f"{kind}2", f"{kind}3"], count=40)

    found = recommended(data, store, view, network_of(data, name), request)

    assert f"{kind}-new" in found
    assert "tea1" not in found


@pytest.mark.parametrize("name", ["transitions", "transformer"])
def test_a_new_item_is_a_subject_of_similar_items_and_among_them(data: Prepared, store: Path, name: Any) -> None:
    view = view_of(data, store, put("tea-new", kind="tea"), put("tea-twin", kind="tea"))
    network = network_of(data, name, blend=False)

    found = recommended(data, store, view, network, SimilarItemsRequest(item_id="tea-new", count=40), place=1)

    assert "tea-twin" in found
    assert "tea-new" not in found


def test_withdrawn_items_are_counted_by_themselves_and_one_that_nobody_put_has_no_place(
    data: Prepared, store: Path
) -> None:
    gone, never_put = put("tea-new", kind="tea", is_withdrawn=True), put("unheard-of", is_withdrawn=True)

    view = view_of(data, store, put("tea-new", kind="tea"), put("odd")).after([gone, never_put], kinds={})

    assert view.counts() == {"new": 1, "new_without_neighbours": 1, "changed": 0, "withdrawn": 2}
    assert view.place("unheard-of") is None
    assert view.new.withdrawn.tolist() == [view.place("tea-new")]


def test_a_table_of_an_earlier_release_leaves_new_items_without_neighbours(data: Prepared, tmp_path: Path) -> None:
    old = tmp_path / "features.sqlite"
    FeatureStore(old).close()

    view = view_of(data, old, put("tea-new", kind="tea"))

    assert view.counts()["new_without_neighbours"] == 1
