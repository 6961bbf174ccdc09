"""The WebSockets of a family: state and model per connection, and isolation between connections."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from models import FAMILIES
from models.family import Family
from models.features import create_live_store
from serve import streams
from serve.routes import make_app
from serve.service import Service, Settings
from serve.streams import FAILED, TOO_FAST, TOO_LARGE, TRY_AGAIN_LATER, Streams
from tests.kit import toy_extras
from tests.kit.bundles import write_bundle
from tests.kit.toy import COLOURS
from tests.kit.toy_extras import TALK

Load = Callable[[Service, str], None]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setitem(FAMILIES, "toy", toy_extras.FAMILY)
    live_store = tmp_path / "live-features.sqlite"
    create_live_store(live_store)

    def loaded(service: Service, version: str) -> None:
        family, model = service.family, tmp_path / version
        schema = family.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
        network = family.build(family.Config(), schema)
        write_bundle(family, model, network=network, schema=schema, config=family.Config())
        asyncio.run(service.load(Settings(version=version, bundle=model, live_feature_store=live_store)))

    return loaded


@pytest.fixture
def service(load: Load) -> Service:
    made = Service("toy")
    load(made, "v1")
    return made


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    """A client whose requests and connections share one event loop, as in a replica."""
    with TestClient(make_app(service), raise_server_exceptions=False) as one:
        yield one


def with_stream(family: Family, **changes: Any) -> Family:
    return dataclasses.replace(family, streams=[dataclasses.replace(TALK, **changes)])


def test_a_connection_keeps_its_state_between_messages(client: TestClient) -> None:
    alone = client.post("/v1/colours", json={"numbers": [2.0, 2.0]}).json()["colour"]

    with client.websocket_connect(TALK.path) as one, client.websocket_connect(TALK.path) as other:
        other.send_text("-9")
        one.send_text("2")
        one.send_text("2")
        first = one.receive_json()
        one.receive_bytes()
        one.send_text("2")
        one.send_text("2")
        second = one.receive_json()

    assert first == {"colour": alone, "number": 1, "model_version": "v1"}
    assert second == {"colour": alone, "number": 2, "model_version": "v1"}


def test_answers_are_in_the_order_of_the_messages(client: TestClient) -> None:
    draw = np.random.default_rng(0)
    messages = [draw.normal(size=(size, 2)).astype(np.float32) for size in (1, 7, 3, 5)]

    with client.websocket_connect(TALK.path) as socket:
        for pairs in messages:
            socket.send_bytes(pairs.tobytes())
        answers = [([socket.receive_json() for _ in pairs], socket.receive_bytes()) for pairs in messages]

    for pairs, (heard, colours) in zip(messages, answers, strict=True):
        expected = client.post("/v1/baskets", json={"items": pairs.tolist()}).json()["colours"]
        assert [each["colour"] for each in heard] == expected
        assert [COLOURS[colour] for colour in colours] == expected
    numbers = [each["number"] for heard, _ in answers for each in heard]
    assert numbers == list(range(1, 17))


def test_a_message_that_encode_rejects_gets_a_problem_and_the_connection_stays_open(client: TestClient) -> None:
    with client.websocket_connect(TALK.path) as socket:
        socket.send_text("warm")
        refused = socket.receive_json()
        socket.send_text("1")
        socket.send_text("1")
        answered = socket.receive_json()

    assert (refused["status"], refused["type"]) == (422, "about:blank")
    assert "'warm'" in refused["detail"]
    assert answered["number"] == 1


def test_a_message_over_the_limit_closes_the_connection_after_earlier_answers(client: TestClient) -> None:
    with client.websocket_connect(TALK.path) as socket:
        socket.send_text("1")
        socket.send_text("1")
        socket.send_bytes(b"\x00" * TALK.max_message_bytes)
        socket.send_text("é" * (TALK.max_message_bytes // 2 + 1))
        answers = [socket.receive() for _ in range(2 + TALK.max_message_bytes // 8 + 1)]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()

    assert all(answer["type"] == "websocket.send" for answer in answers)
    assert closed.value.code == TOO_LARGE == 1009
    assert "1024 bytes" in closed.value.reason


def test_without_a_model_a_connection_is_closed_with_try_again_later(load: Load) -> None:
    client = TestClient(make_app(Service("toy")))

    with client.websocket_connect(TALK.path) as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_text()

    assert closed.value.code == TRY_AGAIN_LATER == 1013


def test_a_connection_keeps_its_model_until_it_ends(service: Service, client: TestClient, load: Load) -> None:
    def version_in(socket: Any) -> str:
        socket.send_bytes(np.ones(2, np.float32).tobytes())
        version: str = socket.receive_json()["model_version"]
        socket.receive_bytes()
        return version

    with client.websocket_connect(TALK.path) as before:
        assert version_in(before) == "v1"
        load(service, "v2")
        with client.websocket_connect(TALK.path) as after:
            assert (version_in(before), version_in(after)) == ("v1", "v2")
    assert client.get("/v1/models").json()["version"] == "v2"


def test_connections_over_the_limit_are_closed_and_requests_still_work(service: Service, client: TestClient) -> None:
    service.streams = Streams(service.batcher, max_connections=1)

    with client.websocket_connect(TALK.path):
        with client.websocket_connect(TALK.path) as second, pytest.raises(WebSocketDisconnect) as closed:
            second.receive_text()
        assert client.post("/v1/colours", json={"numbers": [1, 1]}).status_code == 200
    with client.websocket_connect(TALK.path) as third:
        third.send_bytes(np.ones(2, np.float32).tobytes())
        assert third.receive_json()["number"] == 1

    assert closed.value.code == TRY_AGAIN_LATER


def test_an_internal_error_closes_its_connection_only_and_is_not_disclosed(client: TestClient) -> None:
    pair = np.ones(2, np.float32)

    with client.websocket_connect(TALK.path) as bad, client.websocket_connect(TALK.path) as good:
        bad.send_bytes((pair * 5000).tobytes())
        with pytest.raises(WebSocketDisconnect) as closed:
            bad.receive_text()
        good.send_bytes(pair.tobytes())
        assert good.receive_json()["number"] == 1

    assert closed.value.code == FAILED == 1011
    assert "hotter" not in closed.value.reason


def test_a_disconnected_client_s_queued_examples_are_not_predicted(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    started, release, sizes = threading.Event(), threading.Event(), []

    def wait(network: Any, batch: Any) -> list[int]:
        sizes.append(len(batch))
        started.set()
        assert release.wait(60)
        return [0] * len(batch)

    monkeypatch.setitem(FAMILIES, "toy", with_stream(toy_extras.FAMILY, predict=wait))
    service = Service("toy")
    load(service, "v1")
    pairs = np.ones((3, 2), np.float32)

    with TestClient(make_app(service)) as client:
        with client.websocket_connect(TALK.path) as socket:
            socket.send_bytes(pairs.tobytes())
            assert started.wait(60)  # with the first example; the others are queued
            socket.send_bytes(pairs.tobytes())
            assert service.streams.num_open == 1
        # The session ends when the application has; the network is still predicting.
        assert service.streams.num_open == 0
        release.set()
        assert client.post("/v1/colours", json={"numbers": [1, 1]}).status_code == 200

    assert sizes == [1], "queued examples of a disconnected client must not be predicted"


def test_a_client_that_sends_too_fast_is_disconnected(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def wait(state: Any, message: str | bytes, schema: Any) -> list[Any]:
        assert release.wait(60)
        return []

    monkeypatch.setattr(streams, "MAX_WAITING_BYTES", 10_000)
    monkeypatch.setitem(FAMILIES, "toy", with_stream(toy_extras.FAMILY, encode=wait))
    service = Service("toy")
    load(service, "v1")

    with TestClient(make_app(service)) as client, client.websocket_connect(TALK.path) as socket:
        for _ in range(20):
            socket.send_bytes(b"x" * 1000)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        release.set()

    assert closed.value.code == TOO_FAST == 1008


def test_openapi_lists_the_streams(client: TestClient) -> None:
    described: str = client.get("/openapi.json").json()["info"]["description"]

    assert f"WebSocket {TALK.path}: {TALK.summary}" in described


def test_an_unknown_path_is_rejected(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/nothing"):
        pass


def test_an_empty_message_is_passed_to_the_family(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | bytes] = []

    def note(state: Any, message: str | bytes, schema: Any) -> Sequence[Any]:
        seen.append(message)
        raise ValueError("noted")

    monkeypatch.setitem(FAMILIES, "toy", with_stream(toy_extras.FAMILY, encode=note))
    service = Service("toy")
    load(service, "v1")

    with TestClient(make_app(service)) as client, client.websocket_connect(TALK.path) as socket:
        socket.send_text("")
        socket.receive_json()
        socket.send_bytes(b"")
        socket.receive_json()

    assert seen == ["", b""]
