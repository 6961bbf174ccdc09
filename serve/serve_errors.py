"""Errors that Ray Serve's replica itself answers, such as a full queue, as `application/problem+json`.

Serve calls `middlewares` in each replica and proxy where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import problem

SERVES_OWN = "/-/"
"""Paths that Serve answers for its proxy, which reads only their status."""


def middlewares() -> list[Middleware]:
    """What Serve puts around the application of a replica."""
    return [Middleware(AsProblems)]


class AsProblems:
    """ASGI middleware that turns errors in plain text, which only Serve sends, into problems of the same status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(SERVES_OWN):
            await self.app(scope, receive, send)
            return
        status = 0
        """Of an error whose text is being collected."""
        headers: dict[bytes, bytes] = {}
        text = b""

        async def send_as_problem(message: Message) -> None:
            nonlocal status, text
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers.update(message.get("headers", ()))
                if headers.get(b"content-type", b"").startswith(b"text/plain"):
                    status = message["status"]
                    return
            if not status:
                await send(message)
                return
            text += message.get("body", b"")
            if not message.get("more_body", False):
                retry_after = headers.get(b"retry-after", b"")
                response = problem(
                    status,
                    text.decode(errors="replace") or "the request was not answered",
                    retry_after_s=int(retry_after) if retry_after.isdigit() else None,
                )
                await response(scope, receive, send)

        await self.app(scope, receive, send_as_problem)
