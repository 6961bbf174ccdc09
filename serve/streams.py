"""The WebSockets of a family: messages in order, a state for each connection, and the model it was opened with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel
from starlette.websockets import WebSocket, WebSocketDisconnect

from models.family import AnyStream
from serve.batching import Batcher
from serve.loaded import Loaded
from serve.problems import log, problem_of

TOO_FAST, TOO_LARGE, FAILED, TRY_AGAIN_LATER = 1008, 1009, 1011, 1013
"""Close codes of RFC 6455 and its registry."""
MAX_CONNECTIONS = 32
"""Of a replica. Each holds one of the requests that Serve lets it work on at once, and there must be others left."""
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of a connection: what has come and is not answered yet. Serve does not slow a client down that sends too fast."""
MESSAGE_OVERHEAD_BYTES = 128


class _End(Exception):
    """The end of a connection; without a code when the client has gone."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Inbox:
    """What has come over a connection and waits to be answered."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._waiting: asyncio.Queue[tuple[str | bytes | _End, int]] = asyncio.Queue()

    def put(self, message: str | bytes | _End, num_bytes: int = 0) -> None:
        self._num_bytes += num_bytes + MESSAGE_OVERHEAD_BYTES
        if self._num_bytes > self._max_bytes:
            raise _End(TOO_FAST, "messages come faster than they can be answered; wait for answers")
        self._waiting.put_nowait((message, num_bytes))

    async def get(self) -> str | bytes:
        message, num_bytes = await self._waiting.get()
        self._num_bytes -= num_bytes + MESSAGE_OVERHEAD_BYTES
        if isinstance(message, _End):
            raise message
        return message


class Streams:
    """Serves the connections of one replica."""

    def __init__(self, batcher: Batcher, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._batcher = batcher
        self._max_connections = max_connections
        # Beside the event loop, for a second of sound takes milliseconds to encode.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self.num_open = 0
        """Connections that are being served."""

    async def serve(self, stream: AnyStream, loaded: Loaded | None, socket: WebSocket) -> None:
        """Serve one connection until it ends; the codes that it is closed with are above."""
        await socket.accept()  # a connection that is not accepted gets an HTTP status and no code
        if loaded is None:
            await socket.close(TRY_AGAIN_LATER, "no model is loaded yet")
            return
        if self.num_open >= self._max_connections:
            await socket.close(TRY_AGAIN_LATER, f"there are {self.num_open} connections already; try again later")
            return
        self.num_open += 1
        try:
            end = await self._converse(stream, loaded, socket)
        finally:
            self.num_open -= 1
        if end.code is not None:
            with contextlib.suppress(WebSocketDisconnect):  # gone in this moment
                await socket.close(end.code, end.reason)

    async def _converse(self, stream: AnyStream, loaded: Loaded, socket: WebSocket) -> _End:
        inbox = _Inbox(max(MAX_WAITING_BYTES, stream.max_message_bytes + MESSAGE_OVERHEAD_BYTES))
        # Both at once, so that what nobody waits for any more is not predicted.
        tasks = [
            asyncio.create_task(_read(stream, socket, inbox)),
            asyncio.create_task(self._answer(stream, loaded, socket, inbox)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return _end_of(stream, [task.exception() for task in tasks if not task.cancelled()])

    async def _answer(self, stream: AnyStream, loaded: Loaded, socket: WebSocket, inbox: _Inbox) -> None:
        schema, predict = loaded.model.schema, loaded.predicts[stream.path]
        running = asyncio.get_running_loop()
        state = stream.open(schema, loaded.version)
        while True:
            message = await inbox.get()
            try:
                examples = await running.run_in_executor(self._encoder, stream.encode, state, message, schema)
            except ValueError as error:
                await socket.send_text(problem_of(422, str(error)).model_dump_json(exclude_none=True))
                continue
            predictions = await self._batcher.submit_all(predict, examples)
            for answer in stream.answer(state, predictions, schema):
                await _send(socket, answer)


def _end_of(stream: AnyStream, outcomes: Sequence[BaseException | None]) -> _End:
    """How a connection ends, given how its two tasks did, unless they were cancelled."""
    for outcome in outcomes:
        if isinstance(outcome, _End):
            return outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
            log.error("a connection at %s failed", stream.path, exc_info=outcome)
            return _End(FAILED, "the server failed on a message; the reason is in its log")
    return _End()


async def _read(stream: AnyStream, socket: WebSocket, inbox: _Inbox) -> None:
    while True:
        received: Any = await socket.receive()
        if received["type"] == "websocket.disconnect":
            raise _End
        text = received.get("text")
        content: bytes = received["bytes"] if text is None else text.encode()
        if len(content) > stream.max_message_bytes:
            # What came before it is answered first.
            inbox.put(_End(TOO_LARGE, f"a message is larger than {stream.max_message_bytes} bytes; send less at once"))
        else:
            inbox.put(content if text is None else text, len(content))


async def _send(socket: WebSocket, message: BaseModel | bytes) -> None:
    if isinstance(message, bytes):
        await socket.send_bytes(message)
    else:
        await socket.send_text(message.model_dump_json())
