"""The service without a cluster: answers, problems, feature stores and model reloads."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from ray.serve.schema import ServeDeploySchema

from models import FAMILIES, bundle
from models.errors import BundleRejected
from models.family import AnyEndpoint, Family
from models.features import FeatureStore, fill
from models.prepared import Prepared
from serve.app import build
from serve.problems import MAX_BODY_BYTES
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit import served_toy
from tests.kit.bundles import write_bundle
from tests.kit.served_toy import PREFIX

ROOT = Path(__file__).resolve().parents[2]


def loaded(family_name: str, **settings: Any) -> Service:
    service = Service(family_name)
    asyncio.run(service.load(Settings(**settings)))
    return service


def client_of(service: Service) -> TestClient:
    return TestClient(make_app(service), raise_server_exceptions=False)


@pytest.fixture
def toy_client(toy: Family, toy_bundle: Callable[..., Path]) -> TestClient:
    return client_of(loaded("toy", version="7", bundle=toy_bundle("v7")))


def assert_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = response.json()
    assert content["status"] == status
    assert {"type", "title", "detail"} <= set(content)
    return content


def test_an_answer_carries_the_model_version(toy_client: TestClient) -> None:
    response = toy_client.post("/v1/colours", json={"numbers": [1.0, 2.0]})

    assert response.status_code == 200
    assert response.json()["model_version"] == "7"
    assert response.json()["colour"] in ("blue", "green", "red")


def test_the_service_reports_its_model(toy_client: TestClient, tmp_path: Path) -> None:
    content = toy_client.get("/v1/models").json()

    assert (content["family"], content["version"], content["network"]) == ("toy", "7", "linear")
    assert content["digest"] == bundle.verify(tmp_path / "v7")
    assert content["data_fingerprint"] == "f" * 64
    assert content["last_failed_reload"] is None
    assert content["loaded_at"].endswith("+00:00")
    assert toy_client.get("/healthz").json() == {"status": "ok"}


def test_openapi_documents_request_examples_and_problems(shop_client: TestClient) -> None:
    content = shop_client.get("/openapi.json").json()

    responses = content["paths"]["/v1/recommendations"]["post"]["responses"]
    assert content["components"]["schemas"]["RecommendationRequest"]["examples"]
    assert "application/problem+json" in responses["422"]["content"]


@pytest.mark.parametrize("body", ["{", "", "[1, 2", '{"numbers": [1, 2]', "nonsense", "\x00"])
def test_malformed_json_is_a_422_problem(toy_client: TestClient, body: str) -> None:
    response = toy_client.post("/v1/colours", content=body, headers={"content-type": "application/json"})

    assert_problem(response, 422)


def test_an_unknown_field_is_named(toy_client: TestClient) -> None:
    content = assert_problem(toy_client.post("/v1/colours", json={"numbers": [1, 2], "colour": "red"}), 422)

    assert content["errors"][0]["pointer"] == "#/colour"


def test_a_request_that_encode_rejects_is_a_422_with_its_message(toy_client: TestClient) -> None:
    content = assert_problem(toy_client.post("/v1/colours", json={"visitor_id": "nobody"}), 422)

    assert "nobody" in content["detail"]


def test_a_body_over_the_limit_is_a_413_whether_or_not_it_declares_its_length(toy_client: TestClient) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    declared = {"content-type": "application/json"}

    assert_problem(toy_client.post("/v1/colours", content=body, headers=declared), 413)
    assert_problem(toy_client.post("/v1/colours", content=iter([body]), headers=declared), 413)


def test_an_unknown_path_and_a_wrong_method_are_problems(toy_client: TestClient) -> None:
    assert_problem(toy_client.get("/v1/nothing"), 404)
    response = toy_client.get("/v1/colours")

    assert_problem(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_family_below_a_prefix_documents_the_paths_that_clients_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", served_toy.FAMILY)
    client = TestClient(make_app(Service("toy")), root_path=PREFIX, raise_server_exceptions=False)

    described = client.get(f"{PREFIX}/openapi.json").json()
    missing = assert_problem(client.get(f"{PREFIX}/nothing"), 404)["detail"]

    paths = {endpoint.path for endpoint in served_toy.FAMILY.endpoints}
    assert set(described["paths"]) == {*paths, f"{PREFIX}/models", f"{PREFIX}/healthz", f"{PREFIX}/users/{{user_id}}"}
    assert "servers" not in described, "it would be a second prefix"
    assert {client.post(path, json={}).status_code for path in paths} <= {422, 503}, "each of them must exist"
    assert "/v1/toy/openapi.json lists the paths of the family at /v1/toy" in missing


def test_an_internal_error_is_not_disclosed(
    toy: Family, toy_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: Any, batch: Any) -> list[int]:
        raise RuntimeError("the secret path /srv/models")

    bundle_directory = toy_bundle("v1")
    failing = dataclasses.replace(toy.endpoints[0], path="/v1/failing", predict=fail)
    monkeypatch.setitem(FAMILIES, "toy", dataclasses.replace(toy, endpoints=[*toy.endpoints, failing]))
    service = loaded("toy", version="1", bundle=bundle_directory)

    response = client_of(service).post("/v1/failing", json={"numbers": [1, 2]})

    assert_problem(response, 500)
    assert "secret" not in response.text


def test_a_service_without_a_model_is_unhealthy_and_rejects_requests(toy: Family) -> None:
    client = client_of(Service("toy"))

    assert_problem(client.get("/healthz"), 503)
    assert_problem(client.post("/v1/colours", json={"numbers": [1, 2]}), 503)


def test_features_are_read_from_the_store_which_is_reopened_when_replaced(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "features.sqlite"
    write_features(path, {"ann": [3.0, 3.0]})
    client = client_of(loaded("toy", version="1", bundle=toy_bundle("v1"), feature_store=path))
    assert client.post("/v1/colours", json={"visitor_id": "ann"}).status_code == 200
    assert client.post("/v1/colours", json={"visitor_id": "bob"}).status_code == 422

    write_features(tmp_path / "new.sqlite", {"bob": [1.0, 1.0]})
    (tmp_path / "new.sqlite").replace(path)

    assert client.post("/v1/colours", json={"visitor_id": "bob"}).status_code == 200
    assert client.post("/v1/colours", json={"visitor_id": "ann"}).status_code == 422


def test_a_new_model_takes_over(toy: Family, toy_bundle: Callable[..., Path]) -> None:
    service = loaded("toy", version="1", bundle=toy_bundle("v1"))
    asyncio.run(service.load(Settings(version="2", bundle=toy_bundle("v2", seed=1))))

    assert client_of(service).post("/v1/colours", json={"numbers": [1, 2]}).json()["model_version"] == "2"


@pytest.mark.parametrize("fault", ["truncated", "foreign", "another golden answer", "another digest", "missing"])
def test_a_broken_model_is_reported_and_the_previous_one_stays_in_use(
    toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path, fault: str
) -> None:
    service = loaded("toy", version="1", bundle=toy_bundle("v1"))
    broken = toy_bundle("v2")
    match fault:
        case "truncated":
            weights = broken / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-8])
        case "foreign":
            broken = shop_bundle(tmp_path / "shop")
        case "another golden answer":
            content = json.loads((broken / "golden.json").read_text())
            content["response"]["colour"] = "mauve"
            (broken / "golden.json").write_text(json.dumps(content))
            bundle.seal(broken)
        case "missing":
            shutil.rmtree(broken)

    digest = "0" * 64 if fault == "another digest" else None
    asyncio.run(service.load(Settings(version="2", bundle=broken, digest=digest)))

    client = client_of(service)
    content = client.get("/v1/models").json()
    assert content["version"] == "1"
    assert content["last_failed_reload"]["version"] == "2"
    assert content["last_failed_reload"]["error"]
    assert client.post("/v1/colours", json={"numbers": [1, 2]}).json()["model_version"] == "1"


def test_the_first_model_must_load(toy: Family, toy_bundle: Callable[..., Path]) -> None:
    broken = toy_bundle("v1")
    (broken / "config.json").write_text("{}")

    with pytest.raises(BundleRejected, match=r"config\.json"):
        loaded("toy", version="1", bundle=broken)


def test_an_invalid_argument_of_an_application_is_named() -> None:
    with pytest.raises(ValueError, match="unknown family 'toys'"):
        build({"family": "toys"})
    with pytest.raises(ValueError, match="'colour'"):
        build({"family": "recommender", "colour": 1})


def test_the_example_config_is_valid_and_names_existing_families() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "serve" / "config.yaml").read_text()))

    assert config.http_options.host == "127.0.0.1"
    for application in config.applications:
        assert application.import_path == "serve.app:build"
        assert application.args["family"] == application.name
        assert application.route_prefix == FAMILIES[application.name].route_prefix
        assert [deployment.name for deployment in application.deployments] == ["Model"]
        Settings.model_validate(application.deployments[0].user_config)


# The recommender behind the service


def shop_bundle(directory: Path) -> Path:
    family, data = FAMILIES["recommender"], directory.with_name(f"{directory.name}-data")
    log = directory.with_name(f"{directory.name}.txt")
    log.write_text("\n".join(f"u{user} item-{(user + step) % 20}" for user in range(40) for step in range(6)))
    data.mkdir()
    with ThreadPoolExecutor(1) as executor:
        schema = family.prepare(family.PrepareConfig(raw=str(log), split="leave-one-out"), data, executor)
    config = family.Config(network="transitions")
    network = family.build(config, schema)
    family.initialise(network, Prepared(data), schema)
    return write_bundle(family, directory, network=network.eval(), schema=schema, config=config)


@pytest.fixture(scope="module")
def shop_client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    directory = tmp_path_factory.mktemp("shop")
    path = directory / "features.sqlite"
    store = FeatureStore(path)
    store.replace("history", [("ann", ["item-1", "item-2"])])
    store.replace("items_with", [("colour=red", ["item-3", "item-4"])])
    store.close()
    return client_of(loaded("recommender", version="3", bundle=shop_bundle(directory / "v3"), feature_store=path))


def test_a_known_user_gets_unseen_items(shop_client: TestClient) -> None:
    response = shop_client.post("/v1/recommendations", json={"user_id": "ann", "count": 18})

    content = response.json()
    assert response.status_code == 200
    assert content["source"] == "personal"
    assert len(content["items"]) == 18
    assert not {"item-1", "item-2"} & {item["item_id"] for item in content["items"]}


@pytest.mark.parametrize("request_body", [{"user_id": "nobody"}, {}, {"history": []}, {"history": ["never-sold"]}])
def test_an_unknown_user_gets_the_popular_fallback(shop_client: TestClient, request_body: dict[str, Any]) -> None:
    content = shop_client.post("/v1/recommendations", json=request_body).json()

    assert content["source"] == "popular"
    assert len(content["items"]) == 10


def test_a_filter_on_item_attributes_holds(shop_client: TestClient) -> None:
    body = {"history": ["item-1"], "filter": {"colour": "red"}}

    content = shop_client.post("/v1/recommendations", json=body).json()

    assert {item["item_id"] for item in content["items"]} == {"item-3", "item-4"}


@pytest.mark.parametrize(
    "body",
    [
        {"count": 0},
        {"count": -1},
        {"count": 10**9},
        {"count": 2.5},
        {"user_id": ""},
        {"user_id": "x" * 10_000},
        {"history": "item-1"},
        {"history": [[1], {}]},
        {"history": ["item-1"] * 20_000},
        {"filter": {"colour": {"is": 3}}},
        {"nonsense": True},
        [1, 2, 3],
        "text",
        None,
    ],
)
def test_an_invalid_request_is_a_422_problem(shop_client: TestClient, body: Any) -> None:
    assert_problem(shop_client.post("/v1/recommendations", json=body), 422)


def test_text_that_is_not_unicode_is_a_422_problem(shop_client: TestClient) -> None:
    headers = {"content-type": "application/json"}

    assert_problem(shop_client.post("/v1/recommendations", content=b'{"user_id": "\\ud800"}', headers=headers), 422)
    assert_problem(shop_client.post("/v1/recommendations", content=b'{"user_id": "\xff"}', headers=headers), 422)


def test_json_nested_too_deeply_is_rejected(shop_client: TestClient) -> None:
    headers = {"content-type": "application/json"}

    assert_problem(shop_client.post("/v1/recommendations", content=b"[" * 100_000, headers=headers), 422)


def test_a_history_of_a_million_items_is_rejected(shop_client: TestClient) -> None:
    assert_problem(shop_client.post("/v1/recommendations", json={"history": ["item-1"] * 10**6}), 413)


def test_an_unknown_item_has_no_similar_items(shop_client: TestClient) -> None:
    content = assert_problem(shop_client.post("/v1/similar_items", json={"item_id": "never-sold"}), 422)

    assert "never-sold" in content["detail"]


def test_ids_of_requests_are_read_like_those_of_logs(shop_client: TestClient) -> None:
    for number in (17850, 17850.0, " 17850.0"):
        problem = assert_problem(shop_client.post("/v1/similar_items", json={"item_id": number}), 422)
        assert "item_id '17850' is unknown" in problem["detail"]
    found = [
        shop_client.post("/v1/recommendations", json={"history": [item]}).json()["items"]
        for item in ("item-1", "\u00a0item-1 ")
    ]
    assert found[0] == found[1]


def test_similar_items_exclude_the_item_itself(shop_client: TestClient) -> None:
    content = shop_client.post("/v1/similar_items", json={"item_id": "item-5", "count": 19}).json()

    assert len(content["items"]) == 19
    assert "item-5" not in {item["item_id"] for item in content["items"]}


def test_concurrent_requests_of_both_endpoints_get_their_own_answers(tmp_path: Path) -> None:
    service = loaded("recommender", version="3", bundle=shop_bundle(tmp_path / "v3"))
    recommend, similar = FAMILIES["recommender"].endpoints

    async def ask() -> list[Any]:
        requests: list[tuple[AnyEndpoint, Any]] = [
            (recommend, recommend.Request(history=["item-1"], count=2)),
            (similar, similar.Request(item_id="item-2", count=3)),
            (recommend, recommend.Request(history=["item-3"], count=4)),
        ]
        return await asyncio.gather(*(service.answer(endpoint, request) for endpoint, request in requests))

    answers = asyncio.run(ask())
    assert [len(answer.items) for answer in answers] == [2, 3, 4]


def write_features(path: Path, visitors: dict[str, list[float]]) -> None:
    (path.parent / "visitors.json").write_text(json.dumps(visitors))
    store = FeatureStore(path)
    fill(store, FAMILIES["toy"].features, Prepared(path.parent))
    store.close()
