"""Nasty values in every field of every family's endpoints: no request is answered by a server error."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from models import FAMILIES
from models.family import AnyEndpoint, Family
from models.features import FeatureStore, create_live_store, fill
from models.prepared import Prepared
from models.recommender.filters import FEATURES
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit import pictures, toy_extras
from tests.kit.bundles import write_bundle
from tests.kit.shop import write_model
from tests.models.forecast import kit as forecast
from tests.serve.test_filters import ITEMS
from tests.serve.test_service import shop_bundle

SAMPLED: dict[str, dict[str, Any]] = {
    "pricing": {"network": "loglog", "trees": 10, "members": 2},
    "reviews": {"network": "naive-bayes", "num_buckets": 4096},
}
"""Families whose sample is served, and settings of a small model."""
SALES = {"tea": [1, 2, 3, 4] * 5}
DIGITS = "9" * 100_000
DEEP = "[" * 50_000 + "]" * 50_000
REFUSED = {
    "half of a pair": '"\\ud800"',
    "the other half": '["a", "x\\udfffy"]',
    "key with half of a pair": '{"\\ud800": 1}',
    "10^5 digits": DIGITS,
    "10^5 digits in a list": f"[{DIGITS}]",
    "minus 10^5 digits": f"-{DIGITS}",
    "deep lists": DEEP,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "repeated key": '{"min": 1, "min": 2}',
}
"""JSON texts that are refused wherever they stand."""
TRIED = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "minus one": "-1",
    "fraction": "0.5",
    "2^63": str(2**63),
    "2^53 + 1 as a fraction": f"{2**53 + 1}.0",
    "4000 digits": "9" * 4000,
    "minus 4000 digits": "-" + "9" * 4000,
    "400 digits in a list": f"[{'9' * 400}]",
    "1e400": "1e400",
    "-1e400 in a list": "[-1e400]",
    "1e308": "1e308",
    "5e-324": "5e-324",
    "10^5 digits after the point": f"0.{DIGITS}",
    "10^5 digits as text": f'"{DIGITS}"',
    "200 digits as text": f'"{"9" * 200}"',
    "empty": '""',
    "NUL": '"\\u0000"',
    "NUL in a list": '["a\\u0000b"]',
    "whole pair": '"\\ud83d\\ude00"',
    "long text": json.dumps("x" * 100_000),
    "SQL": json.dumps("' OR 1=1 --"),
    "empty list": "[]",
    "empty object": "{}",
    "many values": json.dumps(["a"] * 5000),
    "mixed": '[1, "a", null, [], {}]',
    "object": '{"min": 1, "max": null}',
    "range of 1e400": '{"min": -1e400, "max": 1e400}',
    "range of 400 digits": f'{{"min": {"9" * 400}}}',
    "filter of huge numbers": f'{{"price": {"9" * 4000}, "size": [{"9" * 400}, 1e300, true]}}',
    "filter of huge text": f'{{"price": "{"9" * 200}", "size": ["1e999", "-1e999", "1e-999", "{"9" * 5000}"]}}',
    "filter with nasty names": '{"": 1, "\\u0000": "a", "~/": {"min": 1}}',
}
"""JSON texts that some field may accept."""


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TestClient]]:
    """A client of a served model of each family."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", toy_extras.FAMILY)
        yield {name: served(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def served(name: str, directory: Path) -> TestClient:
    """A client of a family's service with all the stores that it can have."""
    family = FAMILIES[name]
    stores = {"feature_store": directory / "features.sqlite", "live_feature_store": directory / "live.sqlite"}
    create_live_store(stores["live_feature_store"])
    if name == "recommender":
        write_shop(directory, stores["feature_store"])
    else:
        with closing(FeatureStore(stores["feature_store"])) as store:
            store.replace("visitor", [("ann", [3.0, 3.0])])
    if name == "image":
        data, _ = pictures.prepared(directory, pictures.write_folder(directory / "raw"))
        write_model(family, data, directory / "v1", network="prior")
    if name == "forecast":
        data = forecast.prepared(
            directory / "data", raw=str(forecast.sales_file(directory / "raw.csv", SALES)), horizon=3
        )
        schema, config = forecast.schema_of(data), family.Config(network="tide", dim=8, blend=False)
        config = family.resolve(config, schema)
        write_bundle(family, directory / "v1", network=family.build(config, schema), schema=schema, config=config)
    if name in SAMPLED:
        write_sampled(family, directory, stores["feature_store"])
    if name == "toy":
        schema = family.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
        network = family.build(family.Config(), schema)
        write_bundle(family, directory / "v1", network=network, schema=schema, config=family.Config())
    service = Service(name)
    asyncio.run(service.load(Settings.model_validate({"version": "1", "bundle": directory / "v1", **stores})))
    prefix = family.route_prefix.rstrip("/")
    return TestClient(make_app(service), root_path=prefix, raise_server_exceptions=False)


def write_sampled(family: Family, directory: Path, path: Path) -> None:
    """A model of a family's sample, as it is before training, and its feature store."""
    assert family.sample is not None
    made, prepared = family.sample(directory / "raw"), directory / "data"
    prepared.mkdir()
    with ThreadPoolExecutor(1) as executor:
        family.prepare(family.PrepareConfig(**made.prepare), prepared, executor)
    schema = Prepared(prepared).schema(family.Schema, family.files)
    config = family.resolve(family.Config(**SAMPLED[family.name]), schema)
    network = family.build(config, schema)
    family.initialise(network, Prepared(prepared), schema)
    write_bundle(family, directory / "v1", network=network.eval(), schema=schema, config=config)
    with closing(FeatureStore(path)) as store:
        fill(store, family.features, Prepared(prepared))


def write_shop(directory: Path, path: Path) -> None:
    """A recommender of 20 items with attributes, and its feature store."""
    shop_bundle(directory / "v1")
    pq.write_table(pa.table(ITEMS), directory / "items.parquet")
    with closing(FeatureStore(path)) as store:
        fill(store, FEATURES, Prepared(directory))
        store.replace("history", [("ann", ["item-1", "item-2"])])


def valid_fields(name: str, endpoint: AnyEndpoint) -> dict[str, str]:
    """The JSON text of each field of a valid request."""
    image = json.dumps(base64.b64encode(pictures.encoded(pictures.drawn("square", "red"))).decode())
    needed = {"item_id": '"item-1"', "image": image, "visitor_id": '"ann"', "items": "[[1, 2]]", "history": "[1, 2]"}
    return {name: needed[name] for name in endpoint.Request.model_fields if name in needed}


def bodies(name: str, endpoint: AnyEndpoint, texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Requests with each text in the place of each field, as an unknown field, as a key and as the whole body."""
    valid = valid_fields(name, endpoint)
    for kind, text in texts.items():
        yield f"{kind} as the body", text
        for field in (*endpoint.Request.model_fields, "unknown", "filter"):
            if field == "is_lost":  # makes the toy family fail
                continue
            fields = {**valid, field: text}
            yield f"{kind} as {field}", "{" + ", ".join(f'"{each}": {fields[each]}' for each in fields) + "}"


def mistake(response: Any, statuses: Collection[int]) -> str | None:
    """What is wrong with a response: its status, or an error that is not a problem."""
    if response.status_code not in statuses:
        return f"{response.status_code}: {response.text[:200]}"
    if response.status_code != 200 and response.headers["content-type"] != "application/problem+json":
        return f"{response.status_code} is no problem+json"
    return None


@pytest.mark.parametrize("name", ["recommender", "image", "forecast", "pricing", "reviews", "toy"])
@pytest.mark.parametrize(("texts", "statuses"), [(REFUSED, {422}), (TRIED, {200, 422})], ids=["refused", "tried"])
def test_no_value_of_a_field_is_a_server_error(
    clients: dict[str, TestClient], name: str, texts: Mapping[str, str], statuses: Collection[int]
) -> None:
    headers = {"content-type": "application/json"}
    wrong = {}
    for endpoint in FAMILIES[name].endpoints:
        for title, body in bodies(name, endpoint, texts):
            response = clients[name].post(endpoint.path, content=body.encode(), headers=headers)
            if found := mistake(response, statuses):
                wrong[f"{endpoint.path}, {title}"] = found

    assert wrong == {}


HEADERS: Sequence[tuple[dict[str, str], bytes, int]] = (
    ({"content-type": "application/json", "content-length": "9" * 5000}, b"{}", 413),
    ({"content-type": "application/json", "content-length": "many"}, b"{}", 413),
    ({"content-type": "text/plain"}, b"{}", 415),
    ({}, b"{}", 415),
    ({"content-type": "application/json"}, b'{"count": "\xff"}', 422),
    ({"content-type": "application/json; charset=utf-16"}, '{"count": 1}'.encode("utf-16"), 422),
    ({"content-type": "application/json", "content-encoding": "gzip"}, b"\x1f\x8b\x08", 422),
)


@pytest.mark.parametrize("name", ["recommender", "image", "forecast", "toy"])
@pytest.mark.parametrize(("headers", "body", "status"), HEADERS)
def test_no_header_is_a_server_error(
    clients: dict[str, TestClient], name: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    for endpoint in FAMILIES[name].endpoints:
        response = clients[name].post(endpoint.path, content=body, headers=headers)
        assert mistake(response, {status}) is None, mistake(response, {status})


@pytest.mark.parametrize("name", ["recommender", "image", "forecast", "toy"])
@pytest.mark.parametrize("path", ["/v1/%ED%A0%80", "/v1/%00", "/%FF", f"/{'x' * 5000}", "//", "/v1/../healthz/x"])
def test_an_unknown_path_is_a_404_problem(clients: dict[str, TestClient], name: str, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        found = mistake(clients[name].request(method, path), {404})
        assert found is None, found


def test_query_fields_of_a_file_are_no_server_errors(clients: dict[str, TestClient]) -> None:
    image = pictures.encoded(pictures.drawn("square", "red"))
    wrong = {}
    for endpoint in FAMILIES["image"].endpoints:
        for value in ("%ED%A0%80", "9" * 5000, "NaN", "1e400", "%00", "-1", ""):
            for field in (*endpoint.Request.model_fields, "unknown"):
                path = f"{endpoint.path}?{field}={value}"
                response = clients["image"].post(path, content=image, headers={"content-type": "image/png"})
                if found := mistake(response, {200, 422}):
                    wrong[path[:100]] = found

    assert wrong == {}
