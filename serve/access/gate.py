"""The outermost ASGI middleware: checks the API key of each request, counts it, and notes it in the request log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Request

from models.family import Family
from models.keys import Key
from serve.access.guard import Admitted, Guard, Refusal
from serve.access.request_log import RequestLog
from serve.access.scopes import Scopes
from serve.metrics import CONNECTIONS, OPEN_CONNECTIONS, REFUSED, REQUEST_SECONDS, REQUESTS, Metrics
from serve.problems import problem

POLICY_VIOLATION = 1008
"""The WebSocket close code for a key that may not go on."""
NO_ROUTE = "none"
"""The label of requests that no route matched; their paths are anybody's invention."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Gate:
    """Stands before all other middleware, so that what it refuses costs as little as possible."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        family: Family,
        routes: Sequence[BaseRoute],
        guard: Guard,
        metrics: Metrics,
        request_log: RequestLog,
    ) -> None:
        self.app = app
        self._scopes = Scopes(family, routes)
        self._guard = guard
        self._metrics = metrics
        self._log = request_log

    async def __call__(self, scope: Request, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._connection(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _request(self, scope: Request, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        admitted = self._guard.admit(scope, self._scopes.required(scope))
        status = 500  # unless a response begins, the server sends this one
        more = admitted.headers if isinstance(admitted, Admitted) else ()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if more:
                    message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        record = self._log.begin()
        try:
            if isinstance(admitted, Refusal):
                self._metrics.count(REFUSED, _reason(admitted))
                await _problem(admitted)(scope, receive, note_status)
            else:
                await self.app(scope, receive, note_status)
        finally:
            seconds = time.perf_counter() - started_s
            method = scope["method"] if scope["method"] in METHODS else "other"
            route, code = _route(scope), str(status)
            self._metrics.count(REQUESTS, method, route, code)
            self._metrics.observe(REQUEST_SECONDS, method, route, code, value=seconds)
            if record is not None:
                key = admitted.key if isinstance(admitted, Admitted) else None
                self._log.end(record, method=method, route=route, code=status, seconds=seconds, key=key)

    async def _connection(self, scope: Request, receive: Receive, send: Send) -> None:
        admitted = self._guard.admit(scope, self._scopes.required(scope))
        if isinstance(admitted, Refusal):
            self._metrics.count(REFUSED, _reason(admitted))
            self._metrics.count(CONNECTIONS, NO_ROUTE, "refused")
            await _refuse_handshake(admitted, scope, receive, send)
            return
        if admitted.key is not None:
            conversation = _Conversation(receive, send, self._guard, admitted.key)
            receive, send = conversation.receive, conversation.send
        self._metrics.count(OPEN_CONNECTIONS)
        try:
            await self.app(scope, receive, send)
        finally:
            self._metrics.count(OPEN_CONNECTIONS, by=-1)
            self._metrics.count(CONNECTIONS, _route(scope), "accepted")


class _Conversation:
    """A WebSocket that ends, for the application and the client, when its key does or is used too fast."""

    def __init__(self, receive: Receive, send: Send, guard: Guard, key: Key) -> None:
        self._receive = receive
        self._send = send
        self._guard = guard
        self._key = key
        self._is_over = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            return message
        refused = self._guard.admit_message(self._key)
        if refused is None:
            return message
        self._is_over = True
        await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refused})
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}

    async def send(self, message: Message) -> None:
        if not self._is_over:  # an answer may have been on its way
            await self._send(message)


async def _refuse_handshake(refusal: Refusal, scope: Request, receive: Receive, send: Send) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        await _problem(refusal)(scope, receive, send)
    else:  # the server then answers with 403
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal.detail})


def _problem(refusal: Refusal) -> JSONResponse:
    response = problem(refusal.status, refusal.detail)
    response.headers.update(refusal.headers)
    return response


def _reason(refusal: Refusal) -> str:
    return {401: "key", 403: "scope", 429: "rate"}[refusal.status]


def _route(scope: Request) -> str:
    route = scope.get("route")
    return NO_ROUTE if route is None else f"{scope.get('root_path', '')}{route.path}"
