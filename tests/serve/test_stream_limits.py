"""Time limits of connections: clients that do not read, and messages that take too long to encode."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from models import FAMILIES
from serve.routes import make_app
from serve.service import Service
from serve.streams import FAILED, TOO_SLOW, TRY_AGAIN_LATER, Streams
from tests.kit import toy_extras
from tests.kit.toy_extras import TALK
from tests.serve.test_streams import Load, load, with_stream

__all__ = ["load"]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends the messages that hang."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def service(load: Load, release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose stream hangs on the message `hang`."""

    def encode(talk: Any, message: str | bytes, schema: Any) -> list[Any]:
        if message == "hang":
            assert release.wait(60)
            return []
        return toy_extras.encode_words(talk, message, schema)

    monkeypatch.setitem(FAMILIES, "toy", with_stream(toy_extras.FAMILY, encode=encode))
    made = Service("toy")
    load(made, "v1")
    return made


def test_a_silent_client_is_disconnected(service: Service) -> None:
    service.streams = Streams(service.batcher, idle_timeout_s=0.01)
    received = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "1"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop(0) if received else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def connect() -> None:
        socket = WebSocket({"type": "websocket"}, receive, send)
        await asyncio.wait_for(service.streams.serve(service.family.streams[0], service.current, socket), 60)

    asyncio.run(connect())

    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", TOO_SLOW)
    assert "no message arrived within 0.01 s" in sent[-1]["reason"]
    assert service.streams.num_open == 0


def test_a_client_that_does_not_read_is_disconnected_even_if_closing_hangs_too(service: Service) -> None:
    service.streams = Streams(service.batcher, send_timeout_s=0.01)
    received = [{"type": "websocket.connect"}, *[{"type": "websocket.receive", "text": "1"}] * 2]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop(0) if received else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    async def connect() -> None:
        socket = WebSocket({"type": "websocket"}, receive, send)
        await asyncio.wait_for(service.streams.serve(service.family.streams[0], service.current, socket), 60)

    asyncio.run(connect())

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[-1]["code"] == TOO_SLOW == 1008
    assert "not read within 0.01 s" in sent[-1]["reason"]
    assert service.streams.num_open == 0


def test_a_message_that_hangs_does_not_block_other_connections(service: Service) -> None:
    with (
        TestClient(make_app(service)) as client,
        client.websocket_connect(TALK.path) as stuck,
        client.websocket_connect(TALK.path) as other,
    ):
        stuck.send_text("hang")
        other.send_text("1")
        other.send_text("1")

        assert other.receive_json()["number"] == 1


def test_a_message_that_takes_too_long_closes_its_connection_and_hanging_ones_are_bounded(service: Service) -> None:
    service.streams = Streams(service.batcher, num_encoders=1, encode_timeout_s=0.01)
    codes: list[int] = []

    with TestClient(make_app(service)) as client:
        # A message may time out before its thread has begun, and then nothing hangs.
        while TRY_AGAIN_LATER not in codes and len(codes) < 100:
            with client.websocket_connect(TALK.path) as socket, pytest.raises(WebSocketDisconnect) as closed:
                socket.send_text("hang")
                socket.receive_text()
            codes.append(closed.value.code)

    assert codes[0] == FAILED
    assert codes[-1] == TRY_AGAIN_LATER
