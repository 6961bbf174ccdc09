"""Filters over HTTP: unknown attributes are named, equal numbers match, and ranges include their bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from models.features import FeatureStore, fill
from models.prepared import Prepared
from models.recommender.filters import FEATURES
from serve.routes import make_app
from serve.service import Service, Settings
from tests.serve.test_service import shop_bundle

ITEMS = {
    "item_id": [f"item-{number}" for number in range(20)],
    "price": [float(number) for number in range(19)] + [None],
    "discount": [-20.5, -0.001, 0.0, 0.003, 1e13, *([None] * 15)],
    "in_stock": ["True", "False"] * 10,
    "sku": [str(100 + number) for number in range(20)],
    "size": [number % 4 for number in range(20)],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A recommender of 20 items with attributes."""
    directory = tmp_path_factory.mktemp("shop")
    return _client(directory, ITEMS)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"price": 5}, [5]),
        ({"price": 5.0}, [5]),
        ({"price": "5"}, [5]),
        ({"price": "5.0"}, [5]),
        ({"price": [3, "4"]}, [3, 4]),
        ({"price": "five"}, []),
        ({"size": 1.0}, [1, 5, 9, 13, 17]),
        ({"in_stock": True, "size": 2}, [2, 6, 10, 14, 18]),
        ({"in_stock": "False", "size": 3}, [3, 7, 11, 15, 19]),
        ({"sku": 107}, [7]),
        ({"price": {"min": 10, "max": 12}}, [10, 11, 12]),
        ({"price": {"min": 16.5}}, [17, 18]),
        ({"price": {"max": 0}}, [0]),
        ({"price": {"min": 100}}, []),
        ({"price": {"min": 2, "max": 9}, "size": [0, 3]}, [3, 4, 7, 8]),
        ({"discount": {"min": -20.5, "max": -0.001}}, [0, 1]),
        ({"discount": {"min": -0.0005, "max": 0.003}}, [2, 3]),
        ({"discount": {"min": 1e12}}, [4]),
        ({"discount": {"max": 1e300}}, [0, 1, 2, 3, 4]),
    ],
)
def test_a_filter_allows_equal_values_and_numbers_in_range(
    client: TestClient, wanted: dict[str, Any], numbers: list[int]
) -> None:
    response = client.post("/v1/recommendations", json={"history": [], "count": 20, "filter": wanted})

    assert response.status_code == 200
    assert {item["item_id"] for item in response.json()["items"]} == {f"item-{number}" for number in numbers}


@pytest.mark.parametrize("path", ["recommendations", "similar_items"])
def test_an_unknown_attribute_is_a_422_that_lists_the_known_ones(client: TestClient, path: str) -> None:
    body: dict[str, Any] = {"item_id": "item-1"} if path == "similar_items" else {}

    response = client.post(f"/v1/{path}", json={**body, "filter": {"colour": "red"}})

    assert response.status_code == 422
    assert response.json()["detail"] == (
        "filter 'colour': no item has such an attribute; the attributes are discount, in_stock, price, size, sku"
    )


@pytest.mark.parametrize(
    ("condition", "detail"),
    [
        ({"min": 2, "max": 1}, "min 2 is above max 1"),
        ({}, "a range needs min or max"),
        ({"min": "cheap"}, "#/filter/price/range/min: Input should be a valid number"),
        ({"from": 2}, "#/filter/price/range/from: Extra inputs are not permitted"),
        (None, "#/filter/price"),
    ],
)
def test_a_range_that_is_none_is_a_422(client: TestClient, condition: Any, detail: str) -> None:
    response = client.post("/v1/recommendations", json={"filter": {"price": condition}})

    assert response.status_code == 422
    assert detail in response.json()["detail"]


def test_a_range_of_a_text_attribute_is_a_422_that_lists_the_numeric_ones(client: TestClient) -> None:
    response = client.post("/v1/recommendations", json={"filter": {"in_stock": {"min": 1}}})

    assert response.status_code == 422
    assert "its values are text, and a range needs numbers, as in: price, discount, size" in response.json()["detail"]


def test_a_filter_without_an_item_table_is_a_422(tmp_path: Path) -> None:
    client = _client(tmp_path, {"item_id": ITEMS["item_id"]})

    response = client.post("/v1/recommendations", json={"filter": {"price": 5}})

    assert response.status_code == 422
    assert "the data was prepared without --items" in response.json()["detail"]


def test_a_feature_store_of_an_earlier_release_still_serves_filters_by_value(tmp_path: Path) -> None:
    client = _client(tmp_path, None)

    def answer(wanted: dict[str, Any]) -> Any:
        return client.post("/v1/recommendations", json={"filter": wanted})

    assert {item["item_id"] for item in answer({"price": 5}).json()["items"]} == {"item-5"}
    assert answer({"colour": "red"}).json()["items"] == []
    assert "deploy again" in answer({"price": {"min": 1}}).json()["detail"]


def test_integer_ids_are_their_text(client: TestClient) -> None:
    named = client.post("/v1/recommendations", json={"user_id": "17850", "history": ["1", "item-2"]})
    numbered = client.post("/v1/recommendations", json={"user_id": 17850, "history": [1, "item-2"], "exclude": [5]})

    assert numbered.status_code == 200
    assert numbered.json()["items"] == named.json()["items"]
    assert "'107' is unknown" in client.post("/v1/similar_items", json={"item_id": 107}).json()["detail"]


def test_openapi_documents_the_fields_and_shows_a_filter(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["RecommendationRequest"]

    assert any("min" in example.get("filter", {}).get("price", {}) for example in schema["examples"])
    assert all(field.get("description") for field in schema["properties"].values())


def _client(directory: Path, items: dict[str, Any] | None) -> TestClient:
    """The service of an untrained model and a feature store with these items; None is a store of release 0.2."""
    store = FeatureStore(directory / "features.sqlite")
    if items is None:
        store.replace("items_with", [(f"price={number}.0", [f"item-{number}"]) for number in range(20)])
    else:
        pq.write_table(pa.table(items), directory / "items.parquet")
        fill(store, FEATURES, Prepared(directory))
    store.close()
    service = Service("recommender")
    asyncio.run(
        service.load(
            Settings(version="1", bundle=shop_bundle(directory / "v1"), feature_store=directory / "features.sqlite")
        )
    )
    return TestClient(make_app(service), raise_server_exceptions=False)
