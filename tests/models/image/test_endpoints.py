"""The image endpoints: binary and JSON bodies, responses, and rejected input."""

from __future__ import annotations

import asyncio
import base64
import random
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from models import golden
from models.image import FAMILY
from models.image.codec import MAX_BYTES, MAX_PIXELS
from models.image.config import Config
from models.image.endpoints import ENDPOINTS
from models.image.networks.build import build, initialise
from models.image.schema import Schema
from models.image.text.describe import Attribute, describe
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.bundles import write_bundle
from tests.kit.pictures import TABLE_FLAGS, animated, bomb, drawn, encoded, half_red, prepared, table, webp_header
from tests.serve.test_service import assert_problem

RECOGNISE, DESCRIBE = "/v1/images/recognise", "/v1/images/describe"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that needs no training, of shapes and colours."""
    import pyarrow.parquet as pq

    directory = tmp_path_factory.mktemp("image")
    pq.write_table(table(200), directory / "t.parquet")
    data, schema = prepared(
        directory, directory / "t.parquet", **{**TABLE_FLAGS, "labels": ("type=shape", "colour=paint")}
    )
    config = Config(network="linear")
    network = build(config, schema)
    initialise(network, data, schema)
    return write_bundle(FAMILY, directory / "bundle", network=network.eval(), schema=schema, config=config)


@pytest.fixture(scope="module")
def service(bundle: Path) -> Service:
    service = Service("image")
    asyncio.run(service.load(Settings(version="3", bundle=bundle)))
    return service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


def path(endpoint: str) -> str:
    return endpoint.removeprefix(FAMILY.route_prefix)


def post(
    client: TestClient, content: bytes, *, kind: str = "image/png", endpoint: str = RECOGNISE, **query: Any
) -> Any:
    return client.post(path(endpoint), content=content, params=query, headers={"content-type": kind})


def named(content: Any, name: str) -> dict[str, Any]:
    (found,) = [attribute for attribute in content["attributes"] if attribute["name"] == name]
    return dict(found)


# Answers


@pytest.mark.parametrize("shape", ["bar", "disc"])
@pytest.mark.parametrize(("kind", "format"), [("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")])
def test_the_attributes_of_an_image_are_predicted(client: TestClient, shape: str, kind: str, format: str) -> None:
    response = post(client, encoded(drawn(shape, "green", seed=900), format), kind=kind)

    content = response.json()
    assert response.status_code == 200
    assert content["model_version"] == "3"
    assert named(content, "type")["value"] == shape
    assert named(content, "colour")["value"] == "green"
    assert content["embedding"] is None


def test_base64_in_json_and_a_binary_body_give_the_same_response(client: TestClient) -> None:
    image = encoded(drawn("disc", "blue", seed=901))
    body = {"image": base64.b64encode(image).decode(), "count": 2, "embedding": True}

    by_json = client.post(path(RECOGNISE), json=body)
    by_body = post(client, image, count=2, embedding="true")

    assert by_json.json() == by_body.json()
    assert [len(attribute["best"]) for attribute in by_json.json()["attributes"]] == [2, 2]
    assert len(by_json.json()["embedding"]) > 1


def test_confidences_are_probabilities_and_attributes_below_the_threshold_are_unsure(client: TestClient) -> None:
    image = encoded(drawn("disc", "blue", seed=902))

    colour = named(post(client, image, count=3).json(), "colour")
    assert sum(guess["confidence"] for guess in colour["best"]) == pytest.approx(1.0)
    assert colour["confidence"] == colour["best"][0]["confidence"]
    unsure = named(post(client, image, threshold=1.0).json(), "colour")
    assert (unsure["unsure"], unsure["value"], unsure["best"][0]) == (True, None, colour["best"][0])


def test_a_description_names_the_evidence_of_each_phrase(client: TestClient) -> None:
    content = post(client, encoded(drawn("disc", "blue", seed=903)), endpoint=DESCRIBE, threshold=0.5).json()

    assert content["en"]["title"] == "Blue disc"
    assert content["zh"]["title"] == "蓝色disc"
    for language in ("en", "zh"):
        assert [phrase["attribute"] for phrase in content[language]["phrases"]] == ["type", "colour"]
        for phrase in content[language]["phrases"]:
            assert phrase["text"] in content[language]["description"]
            assert 0.5 <= phrase["confidence"] <= 1
    assert post(client, encoded(drawn("disc", "blue")), endpoint=DESCRIBE, threshold=1.0).json()["en"]["phrases"] == []


def test_the_golden_request_gives_the_response_stored_with_the_model(bundle: Path) -> None:
    from models.bundle import load

    loaded = load(bundle, FAMILY)
    golden.check(FAMILY, loaded.network, loaded.schema, loaded.golden)


def test_openapi_describes_the_body_in_each_type_and_the_query(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"][RECOGNISE]["post"]

    assert set(operation["requestBody"]["content"]) == {"image/jpeg", "image/png", "image/webp", "application/json"}
    assert {parameter["name"] for parameter in operation["parameters"]} == {"count", "threshold", "embedding"}
    assert {"200", "413", "415", "422"} <= set(operation["responses"])


# What is no image


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"%PDF-1.7\n1 0 obj", 422),
        (b"GIF89a" + bytes(50), 422),
        (bomb(), 422),
        (bomb(8_000), 422),
        (webp_header(16_000, 16_000), 422),
        (animated("WEBP"), 422),
        (encoded(half_red(), "JPEG")[:300], 422),
        (random.Random(0).randbytes(MAX_BYTES), 422),
        (random.Random(0).randbytes(MAX_BYTES + 1), 413),
        (encoded(half_red().convert("CMYK"), "JPEG"), 200),
        (encoded(half_red().convert("P")), 200),
        (encoded(half_red(), "JPEG") + b"PK\x03\x04 and more", 200),
        (encoded(Image.new("I;16", (40, 40), 40_000)), 200),
    ],
)
def test_each_body_gets_the_right_answer_or_a_problem(client: TestClient, content: bytes, status: int) -> None:
    response = post(client, content, kind="image/jpeg")

    if status == 200:
        assert response.status_code == 200
    else:
        assert_problem(response, status)
        assert "Traceback" not in response.text and ".py" not in response.text


@pytest.mark.parametrize("kind", ["image/gif", "application/pdf", "text/plain", "application/octet-stream", ""])
def test_an_unsupported_media_type_is_a_415_that_lists_the_supported_ones(client: TestClient, kind: str) -> None:
    content = assert_problem(post(client, encoded(half_red()), kind=kind), 415)

    assert "image/jpeg" in content["detail"]


@pytest.mark.parametrize("query", [{"count": 0}, {"count": "many"}, {"threshold": 2}, {"colour": "red"}])
def test_a_wrong_query_is_a_422_that_names_the_field(client: TestClient, query: dict[str, Any]) -> None:
    content = assert_problem(post(client, encoded(half_red()), **query), 422)

    assert content["errors"][0]["pointer"] == f"#/{next(iter(query))}"


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'"text"', b'{"image": "not base64!"}', b"{}", b"[" * 100_000])
def test_malformed_json_is_a_422_problem(client: TestClient, body: bytes) -> None:
    assert_problem(post(client, body, kind="application/json"), 422)


def test_a_query_parameter_cannot_replace_the_image(client: TestClient) -> None:
    assert_problem(post(client, b"", image=base64.b64encode(encoded(half_red())).decode()), 422)


def test_bad_images_in_a_batch_do_not_affect_the_others(service: Service) -> None:
    endpoint = ENDPOINTS[0]
    contents = [bomb(), encoded(drawn("bar", "red", seed=904)), b"", encoded(drawn("disc", "blue", seed=905))] * 8

    async def ask() -> list[Any]:
        requests = [endpoint.Request(image=content) for content in contents]
        return await asyncio.gather(*(service.answer(endpoint, one) for one in requests), return_exceptions=True)

    answers = asyncio.run(ask())
    types = [getattr(answer, "attributes", [None])[0] for answer in answers]
    assert [found and found.value for found in types] == [None, "bar", None, "disc"] * 8


def test_memory_stays_flat_under_decompression_bombs_and_large_images(client: TestClient) -> None:
    side = int(MAX_PIXELS**0.5)
    largest = encoded(Image.new("RGB", (side, side), "red"), compress_level=1)
    for content in (largest, bomb(8_000)):
        post(client, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(8) as threads:
        statuses = set(threads.map(lambda _: post(client, largest).status_code, range(8)))
    assert [post(client, bomb(8_000)).status_code for _ in range(20)] == [422] * 20

    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert statuses == {200}
    assert grown_mb < 100


# Words


def confident(**values: str) -> dict[str, Attribute]:
    return {head: Attribute(head, value, 0.9) for head, value in values.items()}


def test_a_full_description_in_both_languages() -> None:
    attributes = confident(articleType="Shirts", baseColour="Navy Blue", gender="Men", usage="Casual", season="Summer")

    english, chinese = describe(attributes, "en"), describe(attributes, "zh")

    assert english.title == "Navy Blue Shirts for Men"
    assert english.description == "Shirts in navy blue, for men, for casual wear, for the summer season."
    assert chinese.title == "男士海军蓝衬衫"
    assert chinese.description == "衬衫，海军蓝，适合男士，休闲风格，适合夏季。"


def test_the_category_replaces_an_unsure_type() -> None:
    assert describe(confident(category="Topwear", colour="Red"), "en").title == "Red Topwear"


@pytest.mark.parametrize("attributes", [confident(brand="Acme"), confident(colour="Red"), {}])
def test_the_description_is_empty_without_a_product_type(attributes: dict[str, Attribute]) -> None:
    assert describe(attributes, "en").description == describe(attributes, "zh").description == ""


def test_a_brand_is_never_mentioned() -> None:
    description = describe(confident(type="Shoes", brand="Acme", colour="Red"), "en")

    assert "Acme" not in description.title + description.description
    assert [phrase.attribute.head for phrase in description.phrases] == ["type", "colour"]


def test_every_statement_is_supported_by_a_confident_attribute() -> None:
    schema = Schema.model_construct(heads={"type": ["Shirts", "Ties"], "colour": ["Red", "Blue"], "season": ["Fall"]})
    prediction = type("Prediction", (), {})()
    prediction.probabilities = {"type": [0.9, 0.1], "colour": [0.55, 0.45], "season": [0.71]}
    request = ENDPOINTS[1].Request(image=encoded(half_red()), threshold=0.7)

    answer: Any = ENDPOINTS[1].answer(request, [prediction], schema, "1")

    assert answer.en.description == "Shirts for the fall season."
    assert {phrase.attribute: phrase.confidence for phrase in answer.en.phrases} == {"type": 0.9, "season": 0.71}
