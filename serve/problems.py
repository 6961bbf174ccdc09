"""Errors as `application/problem+json` (RFC 9457), and limits on the size and duration of requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1024 * 1024
REQUEST_TIMEOUT_S = 30.0
"""From the last byte of the body to the answer."""
BODY_TIMEOUT_S = 10.0
"""To receive a body; one more second for each of BODY_BYTES_PER_S that have arrived, up to the request's timeout."""
BODY_BYTES_PER_S = 1024 * 1024
MAX_LENGTH_DIGITS = 15
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
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


def path_id(given: str) -> str:
    """An id from the path of a request; raises RequestRefused if its bytes are not UTF-8.

    Servers decode such a path with U+FFFD, which would be the id of somebody else.
    """
    if "\ufffd" in given:
        raise RequestRefused("the id in the path is not UTF-8; percent-encode its bytes in UTF-8, such as %C3%BC for ü")
    return given


class Limits:
    """ASGI middleware that bounds the size of a body, the time to receive it and the time to answer it.

    It responds with 413 before a body over the limit is read or parsed, with 408 if it arrives too slowly, and with 504
    if the request takes too long. Serve's own timeout would also close WebSockets, which may stay open indefinitely.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        timeout_s: float = REQUEST_TIMEOUT_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or len(declared) > MAX_LENGTH_DIGITS or int(declared) > self.max_bytes:
            await problem(413, self._too_large)(scope, receive, send)
            return
        request = _Receiving(receive, send)
        try:
            async with asyncio.timeout(self.body_timeout_s) as limit:
                await self.app(scope, partial(self._receive, request, limit), request.send)
        except TimeoutError:
            if request.has_begun or not limit.expired():
                raise
            await self._overdue(request)(scope, receive, send)

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.max_bytes} bytes; send less at a time"

    async def _receive(self, request: _Receiving, limit: asyncio.Timeout) -> Message:
        message = await request.receive()
        if request.is_whole:
            return message
        # A chunked body has no Content-Length.
        request.num_bytes += len(message.get("body", b""))
        if request.num_bytes > self.max_bytes:
            raise HTTPException(413, self._too_large)
        now = asyncio.get_running_loop().time()
        if message.get("more_body"):
            allowed_s = self.body_timeout_s + request.num_bytes / BODY_BYTES_PER_S
            limit.reschedule(min(request.started_s + allowed_s, request.started_s + self.timeout_s))
        else:
            request.is_whole = True
            limit.reschedule(now + self.timeout_s)
        return message

    def _overdue(self, request: _Receiving) -> JSONResponse:
        if request.is_whole:
            return problem(504, f"the request was not answered within {self.timeout_s:g} s")
        detail = f"only {request.num_bytes} bytes of the body arrived in time; send it faster, or less at a time"
        response = problem(408, detail)
        response.headers["Connection"] = "close"  # the rest of the body would be taken for the next request
        return response


class _Receiving:
    """A request whose body is being received."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive = receive
        self._send = send
        self.started_s = asyncio.get_running_loop().time()
        self.num_bytes = 0
        self.is_whole = False
        self.has_begun = False
        """Whether the response has."""

    async def send(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


def problem_of(status: int, detail: str, *, errors: list[FieldError] | None = None) -> Problem:
    """A problem with the standard title of its status."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=_sendable(detail), errors=errors)


class _Result(Protocol):
    """What became of one of several things that were sent."""

    reason: str | None


def all_rejected(answer: BaseModel, results: Sequence[_Result], *, noun: str) -> JSONResponse:
    """The response where all things of a request were rejected: a problem with the fields of the usual answer."""
    first = results[0].reason
    detail = f"all {len(results)} {noun}s were rejected; the first one: {first}"
    if len(results) == 1:
        detail = f"the {noun} was rejected: {first}"
    errors = [
        FieldError(pointer=f"#/{place}", detail=each.reason or "") for place, each in enumerate(results[:MAX_ERRORS])
    ]
    content = problem_of(422, detail, errors=errors).model_dump() | answer.model_dump(exclude_none=True)
    return JSONResponse(content, status_code=422, media_type=MEDIA_TYPE)


def problem(
    status: int, detail: str, *, errors: list[FieldError] | None = None, retry_after_s: int | None = None
) -> JSONResponse:
    """A problem+json response; says when to try again where that helps, after a second unless given."""
    content = problem_of(status, detail, errors=errors).model_dump(exclude_none=True)
    headers = {"Retry-After": str(retry_after_s or RETRY_AFTER_S)} if status in (429, 503) else None
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(
    app: FastAPI,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    timeout_s: float = REQUEST_TIMEOUT_S,
    body_timeout_s: float = BODY_TIMEOUT_S,
) -> None:
    """Add problem responses for all errors, and the limits on body size and time, to an application."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestRefused, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _internal_error)
    app.add_middleware(Limits, max_bytes=max_body_bytes, timeout_s=timeout_s, body_timeout_s=body_timeout_s)


def error_responses(*more: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an endpoint for OpenAPI; `more` are statuses beyond the common ones."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in (*more, 408, 413, 415, 422, 500, 503, 504)
    }


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    mistakes = error.errors()
    errors = [_field_error(mistake) for mistake in mistakes[:MAX_ERRORS]]
    first = errors[0]
    return problem(422, f"{first.pointer}: {first.detail}; {_openapi(request)} describes the body", errors=errors)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    return problem(error.status, str(error), retry_after_s=error.retry_after_s)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
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
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in location)
    return FieldError(pointer=_sendable(f"#{pointer}"), detail=_sendable(mistake["msg"]))


def _sendable(text: str) -> str:
    """Text that may quote a request, with lone surrogates, which UTF-8 cannot represent, as escapes."""
    return text.encode(errors="backslashreplace").decode()
