"""Errors of Ray Serve itself become problems; answers of the application pass unchanged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi.testclient import TestClient
from ray.serve._private.http_util import (
    convert_object_to_asgi_messages,
    retry_after_headers,
    validate_http_proxy_callback_return,
)
from starlette.types import Receive, Scope, Send

from serve.serve_errors import AsProblems, middlewares
from tests.serve.test_service import assert_problem


def client_of(text: Any, status: int, *, retry_after_s: float | None = None) -> TestClient:
    """A client of a replica that answers as Serve does."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = retry_after_headers(retry_after_s)
        for message in convert_object_to_asgi_messages(text, status_code=status, extra_headers=headers):
            await send(message)

    (middleware,) = validate_http_proxy_callback_return(middlewares())
    made: Any = middleware.cls
    return TestClient(made(app))


@pytest.mark.parametrize("status", [404, 408, 500, 503])
def test_an_error_of_serve_is_a_problem_with_its_status(status: int) -> None:
    content = assert_problem(client_of("Request dropped", status).get("/v1/recommendations"), status)

    assert content["detail"] == "Request dropped"


def test_a_full_queue_says_when_to_try_again() -> None:
    response = client_of("Request dropped due to backpressure", 503, retry_after_s=2.5).post("/v1/recommendations")

    assert_problem(response, 503)
    assert response.headers["retry-after"] == "3"


def test_what_the_proxy_asks_and_what_is_no_error_pass_unchanged() -> None:
    assert client_of("unhealthy", 503).get("/-/healthz").headers["content-type"].startswith("text/plain")
    assert client_of("all is well", 200).get("/v1/sounds").text == "all is well"
    assert client_of({"detail": "no"}, 422).get("/v1/sounds").json() == {"detail": "no"}


def test_a_websocket_passes_unchanged() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def unused(*arguments: Any) -> Any:
        raise AssertionError

    asyncio.run(AsProblems(app)({"type": "websocket", "path": "/v1/talk"}, unused, unused))

    assert seen == ["websocket"]
