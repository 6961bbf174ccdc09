"""Which scope a key needs for which request: one table for the routes of all parts of the service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from starlette.routing import BaseRoute, Match
from starlette.types import Scope as Request

from models.family import Family
from models.keys import Scope

OPEN: Final = "open"
"""No key is needed."""
ANY: Final = "any"
"""Any valid key will do: no route matches, and the answer is 404, 405 or a redirection."""
Required = Scope | Literal["open", "any"]
WEBSOCKET = "WEBSOCKET"
"""In place of the method of a WebSocket."""
TABLE: dict[tuple[str, str], Required] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/models"): "read",
    # Refusals refer to it; the pages that draw it (/docs, /redoc) load scripts from elsewhere and are not in the table.
    ("GET", "/openapi.json"): "read",
    ("HEAD", "/openapi.json"): "read",
    ("POST", "/events"): "events",
    ("PUT", "/items"): "events",
    ("PUT", "/items/{}"): "events",
    ("GET", "/items/{}"): "read",
    ("DELETE", "/items"): "events",
    ("DELETE", "/items/{}"): "events",
    ("DELETE", "/users/{}"): "erase",
    ("GET", "/metrics"): "admin",
}
"""(method, path) -> the scope; paths are below the family's prefix and `/v1`, with {} for a parameter. A family's
endpoints and streams need `read`, and every other route `admin`."""


class Scopes:
    """The scope that each request to an application needs."""

    def __init__(self, family: Family, routes: Sequence[BaseRoute]) -> None:
        """`routes` is the application's own list, to which routes may still be added."""
        prefix = family.route_prefix.rstrip("/")
        self._of_family: set[tuple[str, str]] = {
            *(("POST", endpoint.path.removeprefix(prefix)) for endpoint in family.endpoints),
            *((WEBSOCKET, stream.path.removeprefix(prefix)) for stream in family.streams),
        }
        self._routes = routes
        self._num_known = 0
        self._known: dict[tuple[str, str], Required] = {}
        """(method, path) -> scope of the routes without parameters, which spares matching them one by one."""

    def required(self, request: Request) -> Required:
        """What an HTTP request or WebSocket needs, as the router would match it."""
        if self._num_known != len(self._routes):
            self._learn()
        method = request["method"] if request["type"] == "http" else WEBSOCKET
        path: str = request["path"]
        if root_path := request.get("root_path"):
            path = path.removeprefix(root_path)
        return self._known.get((method, path)) or self._matched(request, method)

    def _matched(self, request: Request, method: str) -> Required:
        """By the routes' own patterns, so that no path, such as `/metrics%0A`, is one to the router and none here."""
        for route in self._routes:
            match, _ = route.matches(request)
            if match is Match.FULL:
                return self._of(route, method)
        return ANY

    def _of(self, route: Any, method: str) -> Required:
        path: str = getattr(route, "path", "")
        if (method, path) in self._of_family:
            return "read"
        return TABLE.get((method, re.sub(r"\{[^}]*\}", "{}", path.removeprefix("/v1"))), "admin")

    def _learn(self) -> None:
        self._num_known = len(self._routes)
        self._known = {}
        for route in self._routes:
            path = getattr(route, "path", "{")
            if "{" not in path:
                for method in getattr(route, "methods", None) or [WEBSOCKET]:
                    # The first route wins, as in the router.
                    self._known.setdefault((method, path), self._of(route, method))
