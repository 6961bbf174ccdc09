"""Errors as `application/problem+json` (RFC 9457), and limits on the size and duration of requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
REQUEST_TIMEOUT_S = 30.0
MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
"""Maximum number of reported field errors."""

log = logging.getLogger("shopkeeper.serve")


class FieldError(BaseModel):
    """An invalid field of a request body."""

    pointer: str
    """JSON pointer to the field."""
    detail: str


class Problem(BaseModel):
    """Problem details of RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


class RequestRefused(Exception):
    """A well-formed request that cannot be answered; the message is for the client."""

    def __init__(self, detail: str, *, status: int = 422, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        """Sent as the header Retry-After."""


class BodyLimit:
    """ASGI middleware that responds with 413 before a body over the limit is read or parsed."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = f"the body is larger than {self.max_bytes} bytes; send less at a time"
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.max_bytes:
            await problem(413, too_large)(scope, receive, send)
            return
        received = 0

        async def limited_receive() -> Message:
            # A chunked body has no Content-Length.
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, too_large)
            return message

        await self.app(scope, limited_receive, send)


class TimeLimit:
    """ASGI middleware that responds with 504 if a request, including the upload of its body, takes too long.

    Serve's own timeout would also close WebSockets, which may stay open indefinitely.
    """

    def __init__(self, app: ASGIApp, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.app = app
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def track_start(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                await self.app(scope, receive, track_start)
        except TimeoutError:
            if has_begun or not limit.expired():
                raise
            await problem(504, f"the request was not answered within {self.timeout_s:g} s")(scope, receive, send)


def problem_of(status: int, detail: str, *, errors: list[FieldError] | None = None) -> Problem:
    """A problem with the standard title of its status."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=_sendable(detail), errors=errors)


def problem(status: int, detail: str, *, errors: list[FieldError] | None = None) -> JSONResponse:
    """A problem+json response."""
    content = problem_of(status, detail, errors=errors).model_dump(exclude_none=True)
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE)


def install(app: FastAPI, *, max_body_bytes: int = MAX_BODY_BYTES, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
    """Add problem responses for all errors, and the limits on body size and request time, to an application."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _internal_error)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(TimeLimit, timeout_s=timeout_s)


def error_responses(*more: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an endpoint for OpenAPI; `more` are statuses beyond the common ones."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in (*more, 413, 422, 500, 503, 504)
    }


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    mistakes = error.errors()
    errors = [_field_error(mistake) for mistake in mistakes[:MAX_ERRORS]]
    first = errors[0]
    return problem(422, f"{first.pointer}: {first.detail}; {_openapi(request)} describes the body", errors=errors)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    response = problem(error.status, str(error))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's response to a body that is not UTF-8 or is nested too deeply
        return problem(422, "#: the body cannot be parsed as JSON; send UTF-8 with less nesting")
    mounted_at = _root_path(request) or "/"
    details = {
        404: f"{request.url.path} does not exist; {_openapi(request)} lists the paths of the family at {mounted_at}",
        405: f"{request.method} is not allowed at {request.url.path}; {_openapi(request)} lists the methods",
    }
    response = problem(error.status_code, details.get(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    return response


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "internal server error; the cause is in the server's log")


def _openapi(request: Request) -> str:
    """Path of the application's OpenAPI document; each family has its own."""
    return f"{_root_path(request)}/openapi.json"


def _root_path(request: Request) -> str:
    """The prefix at which the application is mounted."""
    root_path: str = request.scope.get("root_path", "")
    return root_path.rstrip("/")


def _field_error(mistake: Mapping[str, Any]) -> FieldError:
    location = mistake["loc"][1:]  # FastAPI puts "body" first
    if mistake["type"] == "json_invalid":
        return FieldError(pointer="#", detail=f"invalid JSON at character {location[0]}: {mistake['ctx']['error']}")
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)
    return FieldError(pointer=f"#{pointer}", detail=mistake["msg"])


def _sendable(text: str) -> str:
    """Text that may quote a request, with lone surrogates, which UTF-8 cannot represent, as escapes."""
    return text.encode(errors="backslashreplace").decode()
