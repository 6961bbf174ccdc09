"""The WebSockets of a family: ordered messages, per-connection state, and a model fixed at connect time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from models.family import AnyStream
from models.time_limit import Overdue, TimedThreads
from serve.batching import Batcher
from serve.loaded_model import Loaded
from serve.problems import log, problem_of

TOO_FAST, TOO_LARGE, FAILED, TRY_AGAIN_LATER = 1008, 1009, 1011, 1013
"""WebSocket close codes of RFC 6455 and its registry."""
TOO_SLOW = TOO_FAST
"""A client that does not keep its part of the protocol gets the same code either way."""
MAX_CONNECTIONS = 32
"""Per replica. Each connection counts as an ongoing request in Serve, and some must be left for HTTP."""
MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Per connection: received but unanswered messages. Serve applies no backpressure to fast clients."""
MESSAGE_OVERHEAD_BYTES = 128
NUM_ENCODERS = 4
"""Messages that are encoded at the same time, per replica."""
ENCODE_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 30.0
"""How long a client may leave an answer unread; otherwise it would hold its connection for ever."""
IDLE_TIMEOUT_S = 120.0
"""How long a client may send no whole message; otherwise a few silent clients would hold all connections for ever."""


class _End(Exception):
    """The end of a connection; without a code if the client has disconnected."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class _Inbox:
    """Received messages of a connection that are not answered yet."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._waiting: asyncio.Queue[tuple[str | bytes | _End, int]] = asyncio.Queue()

    def put(self, message: str | bytes | _End, num_bytes: int = 0) -> None:
        self._num_bytes += num_bytes + MESSAGE_OVERHEAD_BYTES
        if self._num_bytes > self._max_bytes:
            raise _End(TOO_FAST, "messages arrive faster than they are answered; wait for answers")
        self._waiting.put_nowait((message, num_bytes))

    async def get(self) -> str | bytes:
        message, num_bytes = await self._waiting.get()
        self._num_bytes -= num_bytes + MESSAGE_OVERHEAD_BYTES
        if isinstance(message, _End):
            raise message
        return message


class Streams:
    """Serves the connections of one replica."""

    def __init__(
        self,
        batcher: Batcher,
        *,
        max_connections: int = MAX_CONNECTIONS,
        num_encoders: int = NUM_ENCODERS,
        encode_timeout_s: float = ENCODE_TIMEOUT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._batcher = batcher
        self._max_connections = max_connections
        # Off the event loop, as a second of audio takes milliseconds to encode.
        self._encoders = TimedThreads(num_encoders)
        self._encode_timeout_s = encode_timeout_s
        self._send_timeout_s = send_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self.num_open = 0
        """Open connections."""

    async def serve(self, stream: AnyStream, loaded: Loaded | None, socket: WebSocket) -> None:
        """Serve one connection until it ends, and close it with one of the codes above."""
        await socket.accept()  # a rejected connection would get an HTTP status and no close code
        if loaded is None:
            await socket.close(TRY_AGAIN_LATER, "no model is loaded yet")
            return
        if self.num_open >= self._max_connections:
            await socket.close(TRY_AGAIN_LATER, f"all {self.num_open} connections are in use; try again later")
            return
        self.num_open += 1
        try:
            end = await self._converse(stream, loaded, socket)
        finally:
            self.num_open -= 1
        if end.code is not None:
            # It may have disconnected just now, or not read what was sent before.
            with contextlib.suppress(WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(self._send_timeout_s):
                    await socket.close(end.code, end.reason)

    async def _converse(self, stream: AnyStream, loaded: Loaded, socket: WebSocket) -> _End:
        inbox = _Inbox(max(MAX_WAITING_BYTES, stream.max_message_bytes + MESSAGE_OVERHEAD_BYTES))
        # Concurrently, so that predictions stop when the client disconnects.
        tasks = [
            asyncio.create_task(_read(stream, socket, inbox, idle_timeout_s=self._idle_timeout_s)),
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
        state = stream.open(schema, loaded.version)
        while True:
            message = await inbox.get()
            try:
                examples = await self._encode(partial(stream.encode, state, message, schema))
            except ValueError as error:
                refusal = problem_of(422, str(error)).model_dump_json(exclude_none=True)
                await self._send(socket.send_text(refusal))
                continue
            predictions = await self._batcher.submit_all(predict, examples)
            for answer in stream.answer(state, predictions, schema):
                if isinstance(answer, bytes):
                    await self._send(socket.send_bytes(answer))
                else:
                    await self._send(socket.send_text(answer.model_dump_json()))

    async def _encode(self, encode: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        if self._encoders.are_all_stuck:
            raise _End(TRY_AGAIN_LATER, "too many messages have exceeded their time limit; try again later")
        try:
            return await self._encoders.call_async(encode, timeout_s=self._encode_timeout_s)
        except Overdue:
            raise _End(FAILED, f"a message was not encoded within {self._encode_timeout_s:g} s") from None

    async def _send(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s) as limit:
                await sending
        except TimeoutError:
            if not limit.expired():
                raise
            raise _End(TOO_SLOW, f"an answer was not read within {self._send_timeout_s:g} s; read them") from None


def _end_of(stream: AnyStream, outcomes: Sequence[BaseException | None]) -> _End:
    """How a connection ends, given the exceptions of its tasks that were not cancelled."""
    for outcome in outcomes:
        if isinstance(outcome, _End):
            return outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
            log.error("a connection at %s failed", stream.path, exc_info=outcome)
            return _End(FAILED, "internal server error; the cause is in the server's log")
    return _End()


async def _read(stream: AnyStream, socket: WebSocket, inbox: _Inbox, *, idle_timeout_s: float) -> None:
    while True:
        received: Any
        try:
            async with asyncio.timeout(idle_timeout_s):
                received = await socket.receive()
        except TimeoutError:
            raise _End(TOO_SLOW, f"no message arrived within {idle_timeout_s:g} s; connect again to send one") from None
        if received["type"] == "websocket.disconnect":
            raise _End
        text = received.get("text")
        content: bytes = received["bytes"] if text is None else text.encode()
        if len(content) > stream.max_message_bytes:
            # Earlier messages are answered first.
            inbox.put(_End(TOO_LARGE, f"a message is larger than {stream.max_message_bytes} bytes; send less at once"))
        else:
            inbox.put(content if text is None else text, len(content))
