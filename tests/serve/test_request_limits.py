"""What one request may cost, and how long its body may take; a client that has gone costs nothing more."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.family import Family, Feature
from models.features import MAX_KEYS, FeatureStore, TooManyKeys
from serve.json_bodies import LARGE_BYTES
from serve.problems import Limits, problem
from serve.routes import make_app
from serve.service import Service
from serve.stored_features import SMALL_KEYS
from tests.serve.test_service import assert_problem, client_of, loaded, shop_bundle

PATH = "/v1/recommendations"
ASKED = Feature(name="visitor", keys=lambda request: list(request))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Service:
    directory = tmp_path_factory.mktemp("shop")
    with closing(FeatureStore(directory / "features.sqlite")) as store:
        store.replace("history", [("ann", ["item-1", "item-2"]), ("eve", ["item-1"] * 20_000)])
        store.replace("items_with", [(f"colour={number}", [f"item-{number}"]) for number in range(20)])
    return loaded(
        "recommender",
        version="1",
        bundle=shop_bundle(directory / "v1"),
        feature_store=directory / "features.sqlite",
    )


# The work of one request


def test_all_keys_of_a_feature_are_read_in_few_statements(tmp_path: Path) -> None:
    keys = [f"key-{number}" for number in range(3000)]
    store = FeatureStore(tmp_path / "features.sqlite")
    store.replace("visitor", [(key, [key]) for key in keys[::2]])
    statements: list[str] = []
    store._connection.set_trace_callback(statements.append)

    found = store.read([ASKED], [*keys, *keys])

    assert found.values == {"visitor": {key: [key] for key in keys[::2]}}
    assert set(found.versions.values()) == {0, 1} and len(found.versions) == len(keys)
    assert len([each for each in statements if each.startswith("SELECT")]) == 6


@pytest.mark.parametrize("num_keys", [0, 1, 2, 8, 9, 64, 65, 512, 513, 1025])
def test_any_number_of_keys_is_read(tmp_path: Path, num_keys: int) -> None:
    store = FeatureStore(tmp_path / "features.sqlite")
    store.replace("visitor", [(str(number), number) for number in range(2000)])

    found = store.read([ASKED], [str(number) for number in range(num_keys)])

    assert found.values["visitor"] == {str(number): number for number in range(num_keys)}


def test_more_keys_than_a_request_may_have_are_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features.sqlite")

    with pytest.raises(TooManyKeys, match=f"asks for {MAX_KEYS + 1} stored values, and at most {MAX_KEYS} are allowed"):
        store.read([ASKED], [str(number) for number in range(MAX_KEYS + 1)])


@pytest.mark.parametrize(
    ("wanted", "detail"),
    [
        ({"colour": ["a"] * 1001}, "#/filter/colour/values: List should have at most 1000 items"),
        (
            {f"name-{place}": [f"{number}.5" for number in range(1000)] for place in range(16)},
            "at most 10000 are allowed",
        ),
    ],
)
def test_a_filter_of_too_many_values_is_a_422_that_names_the_limit(
    shop: Service, wanted: dict[str, Any], detail: str
) -> None:
    content = assert_problem(client_of(shop).post(PATH, json={"filter": wanted}), 422)

    assert detail in content["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"filter": {"colour": [str(number) for number in range(SMALL_KEYS + 1)]}},
        {"user_id": "eve"},
        {"history": ["item-1"], "exclude": ["x" * 100] * (LARGE_BYTES // 100)},
    ],
    ids=["keys", "values", "body"],
)
def test_what_takes_long_does_not_run_on_the_event_loop(
    shop: Service, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    threads = encoding_threads(shop, monkeypatch)

    assert client_of(shop).post(PATH, json=body).status_code == 200

    assert [name.startswith("work") for name in threads] == [True]


def test_a_usual_request_changes_no_thread(shop: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = encoding_threads(shop, monkeypatch)

    assert client_of(shop).post(PATH, json={"user_id": "ann", "exclude": ["item-3"]}).status_code == 200

    assert [name.startswith("work") for name in threads] == [False]


def encoding_threads(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that encode requests from now on."""
    threads: list[str] = []
    kind = type(service.current.answerers[PATH]) if service.current else None
    assert kind is not None
    encode = kind.encode

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return encode(*arguments, **options)

    monkeypatch.setattr(kind, "encode", noted)
    return threads


# Slow bodies


async def receive_slowly(app: Any, chunks: list[bytes], sent: list[Any], path: str = "/v1/colours") -> None:
    """A request whose body has these chunks, and then no more."""

    async def receive() -> Any:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": True}
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await app(scope, receive, send)


@pytest.mark.parametrize("chunks", [[], [b'{"numbers"'], [b"{", b'"', b"n"]])
def test_a_body_that_does_not_arrive_is_a_408_problem_and_ends_the_connection(
    toy: Family, toy_bundle: Callable[..., Path], chunks: list[bytes]
) -> None:
    service, sent = loaded("toy", version="1", bundle=toy_bundle("v1")), list[Any]()

    asyncio.run(receive_slowly(make_app(service, body_timeout_s=0.05), chunks, sent))

    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == json.loads(sent[1]["body"])["status"] == 408
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"


def test_a_body_that_arrives_fast_enough_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.problems.BODY_BYTES_PER_S", 0.001)  # each byte gives the rest of the request's time
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.05)  # ten times the time for a body without bytes
        await problem(418, "received")(scope, receive, send)

    limits = Limits(app, max_bytes=1000, timeout_s=600.0, body_timeout_s=0.005)
    asyncio.run(receive_slowly(limits, [b"1"], sent))

    assert sent[0]["status"] == 418


# Clients that have gone


def test_requests_whose_clients_have_gone_are_not_encoded_and_leave_nothing_behind(
    shop: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = encoding_threads(shop, monkeypatch)
    body = {"filter": {"colour": [str(number) for number in range(SMALL_KEYS + 1)]}}
    is_free = threading.Event()

    async def disconnect() -> int:
        blocked = shop.answers.worker.submit(is_free.wait)
        transport = httpx.ASGITransport(app=make_app(shop))
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            requests = [asyncio.create_task(client.post(PATH, json=body)) for _ in range(20)]
            while shop.answers.worker._work_queue.qsize() < len(requests):
                await asyncio.sleep(0)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            is_free.set()
            await asyncio.wrap_future(blocked)
            return (await client.post(PATH, json=body)).status_code

    assert asyncio.run(disconnect()) == 200
    assert len(threads) == 1, "only the last one was encoded"
    assert shop.current is not None and shop.current.features._num_requests == 0
