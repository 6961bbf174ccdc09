"""Visually similar products: the index that deploy builds, and the endpoint that searches it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from jobs.cli.context import Store
from jobs.deploy import build_index
from models import FAMILIES, bundle
from models.errors import BundleRejected
from models.image import FAMILY
from models.image.config import Config
from models.image.networks.build import build, initialise
from models.image.similarity_index import EMBEDDINGS, Catalogue, write_index
from models.prepared import Prepared
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.bundles import write_bundle
from tests.kit.pictures import SHAPES, TABLE_FLAGS, drawn, encoded, prepared, table, write_folder
from tests.serve.test_service import assert_problem

Shop = tuple[Prepared, Path, Path]


def shop(directory: Path, raw: Path, **flags: Any) -> Shop:
    """Prepared data, a model that needs no training, and the index of both."""
    data, schema = prepared(directory, raw, **flags)
    config = Config(network="linear")
    network = build(config, schema)
    initialise(network, data, schema)
    model = write_bundle(FAMILY, directory / "bundle", network=network.eval(), schema=schema, config=config)
    write_index(network, data, schema, directory / "index")
    return data, model, directory / "index"


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("products")
    pq.write_table(table(), directory / "t.parquet")
    return shop(directory, directory / "t.parquet", **TABLE_FLAGS)


def client_with(model: Path, index: Path | None) -> TestClient:
    service = Service("image")
    asyncio.run(service.load(Settings(version="1", bundle=model, index=index)))
    return TestClient(make_app(service), raise_server_exceptions=False)


def similar(client: TestClient, image: bytes, **query: Any) -> Any:
    return client.post("/similar", content=image, params=query, headers={"content-type": "image/png"})


def test_an_image_of_a_product_finds_that_product_first_and_once(products: Shop) -> None:
    _, model, index = products
    rows = table().to_pandas()

    content = similar(client_with(model, index), rows["photo"][7], count=30).json()

    found = [item["item_id"] for item in content["items"]]
    assert content["indexed"] == len(found) == len(set(found)) == 30
    assert found[0] == rows["sku"][7]
    assert content["items"][0]["similarity"] == pytest.approx(1.0, abs=1e-3)
    similarities = [item["similarity"] for item in content["items"]]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_new_image_finds_products_of_its_kind(products: Shop, shape: str) -> None:
    _, model, index = products
    kinds = dict(zip(table()["sku"].to_pylist(), table()["shape"].to_pylist(), strict=True))

    content = similar(client_with(model, index), encoded(drawn(shape, "red", seed=500)), count=3).json()

    assert [kinds[item["item_id"]] for item in content["items"]] == [shape] * 3


def test_without_product_ids_or_an_index_no_products_are_returned(products: Shop, tmp_path: Path) -> None:
    _, folder_model, folder_index = shop(tmp_path, write_folder(tmp_path / "raw"))
    image = encoded(drawn("bar", "red"))

    for client in (client_with(folder_model, folder_index), client_with(products[1], None)):
        assert similar(client, image).json() == {"model_version": "1", "indexed": 0, "items": []}


@pytest.mark.parametrize("query", [{"count": 0}, {"count": 101}])
def test_an_impossible_count_is_a_422(products: Shop, query: dict[str, Any]) -> None:
    assert_problem(similar(client_with(products[1], products[2]), encoded(drawn("bar", "red")), **query), 422)


def test_a_product_is_ranked_by_its_most_similar_image() -> None:
    known = Catalogue(["a", "b"], torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))

    (found,) = known.nearest(torch.tensor([[0.0, 1.0]]))

    assert [(one.item_id, round(one.similarity, 3)) for one in found] == [("a", 1.0), ("b", 0.8)]


def test_a_corrupt_index_is_not_attached(products: Shop, tmp_path: Path) -> None:
    data, model, index = products
    loaded = bundle.load(model, FAMILY)
    damaged = tmp_path / "index"
    write_index(loaded.network, data, loaded.schema, damaged)
    (damaged / EMBEDDINGS).write_bytes(b"\0" * 100)

    with pytest.raises(BundleRejected, match=EMBEDDINGS):
        client_with(model, damaged)
    service = Service("image")
    asyncio.run(service.load(Settings(version="1", bundle=model, index=index)))
    asyncio.run(service.load(Settings(version="2", bundle=model, index=damaged)))
    failed = service.info().last_failed_reload
    assert service.info().version == "1" and failed is not None and EMBEDDINGS in failed.error


def test_deploy_builds_the_index_of_a_model_and_its_data_once(products: Shop, store: Store) -> None:
    data, model, index = products
    store.data("image").mkdir(parents=True)
    (store.data("image") / "here").symlink_to(data.path)
    (store.data("image") / "CURRENT").write_text("here")
    loaded = bundle.load(model, FAMILY)

    built = build_index(store, FAMILY, loaded)
    assert built is not None and (built / EMBEDDINGS).read_bytes() == (index / EMBEDDINGS).read_bytes()
    before = (built / EMBEDDINGS).stat().st_mtime_ns
    assert build_index(store, FAMILY, loaded) == built
    assert (built / EMBEDDINGS).stat().st_mtime_ns == before
    assert build_index(store, FAMILIES["recommender"], loaded) is None
