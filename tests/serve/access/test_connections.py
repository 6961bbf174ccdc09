"""WebSockets need a key as well: at the handshake, and for as long as they are open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from models import FAMILIES
from models.features import create_live_store
from serve.access.gate import POLICY_VIOLATION
from serve.access.guard import LOOK_EVERY_S
from tests.kit import toy_extras
from tests.kit.bundles import write_bundle
from tests.kit.guarded_toy import GuardedToy
from tests.kit.toy_extras import TALK


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuardedToy:
    family = toy_extras.FAMILY
    monkeypatch.setitem(FAMILIES, "toy", family)
    schema = family.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
    network = family.build(family.Config(), schema)
    write_bundle(family, tmp_path / "v1", network=network, schema=schema, config=family.Config())
    create_live_store(tmp_path / "live.sqlite")
    return GuardedToy(tmp_path, tmp_path / "v1", live_feature_store=tmp_path / "live.sqlite")


def test_a_handshake_without_a_key_or_its_scope_is_refused_as_a_problem(endpoint: GuardedToy) -> None:
    wrong = endpoint.add("admin")

    for headers, status in (({}, 401), (wrong, 403)):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            endpoint.client.websocket_connect(TALK.path, headers=headers),
        ):
            pass
        assert refused.value.status_code == status
        assert refused.value.headers["content-type"] == "application/problem+json"
        assert refused.value.headers["www-authenticate"].startswith("Bearer")


def test_a_server_that_cannot_send_a_response_to_a_handshake_closes_it(endpoint: GuardedToy) -> None:
    endpoint.add("read")

    async def without_extensions(scope: Any, receive: Any, send: Any) -> None:
        await endpoint.app({**scope, "extensions": {}}, receive, send)

    with pytest.raises(WebSocketDisconnect) as refused, TestClient(without_extensions).websocket_connect(TALK.path):
        pass
    assert refused.value.code == POLICY_VIOLATION


def test_a_connection_with_a_key_is_served_until_the_key_is_revoked(endpoint: GuardedToy) -> None:
    header = endpoint.add("read")

    with endpoint.client as client, client.websocket_connect(TALK.path, headers=header) as socket:
        socket.send_text("warm")
        assert socket.receive_json()["status"] == 422
        endpoint.write()
        endpoint.clock.now_s += LOOK_EVERY_S
        socket.send_text("2")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()

    assert closed.value.code == POLICY_VIOLATION
    assert "was revoked" in closed.value.reason


def test_messages_count_against_the_rate_of_the_key(endpoint: GuardedToy) -> None:
    header = endpoint.add("read", requests_per_s=2.0)

    with endpoint.client as client, client.websocket_connect(TALK.path, headers=header) as socket:
        socket.send_text("warm")
        socket.receive_json()
        socket.send_text("2")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()

    assert closed.value.code == POLICY_VIOLATION
    assert "more than 2 messages/s" in closed.value.reason


def test_connections_are_counted(endpoint: GuardedToy) -> None:
    with endpoint.client as client:
        with client.websocket_connect(TALK.path):
            assert 'shopkeeper_open_connections{family="toy"} 1' in client.get("/metrics").text
        text = client.get("/metrics").text

    assert 'shopkeeper_open_connections{family="toy"} 0' in text
    assert f'shopkeeper_connections_total{{family="toy",route="{TALK.path}",outcome="accepted"}} 1' in text
