"""Keys of an endpoint: who is let in, who is not, and that nothing opens a guarded endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from models import FAMILIES
from models.family import Family
from models.keys import Key, Scope, make_key, read_keys, write_keys
from serve.access.guard import LOOK_EVERY_S
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit.toy_extras import SOUNDS, first

NUMBERS = {"numbers": [1.0, 2.0]}


class Clock:
    """Both clocks of a guard."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Endpoint:
    """A service of the toy family with a key file, without a cluster."""

    def __init__(self, directory: Path, bundle: Path, **settings: Any) -> None:
        self.path = directory / "keys.json"
        self.clock = Clock()
        self.service = Service("toy")
        self.service.guard._monotonic = self.service.guard._epoch_s = self.clock
        self.bundle = bundle
        self.load(**settings)
        self.app = make_app(self.service)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def load(self, **settings: Any) -> None:
        wanted = Settings(version="7", bundle=self.bundle, keys=self.path, **settings)
        asyncio.run(self.service.load(wanted))

    def add(self, *scopes: Scope, name: str = "web", **changes: Any) -> dict[str, str]:
        """Add a key and return the header that sends it."""
        keys = read_keys(self.path)
        key, secret = make_key(name, scopes=scopes, requests_per_s=changes.pop("requests_per_s", None))
        self.write(*(keys.by_id.values() if keys else ()), key.model_copy(update=changes))
        return {"Authorization": f"Bearer {secret}"}

    def write(self, *keys: Key) -> None:
        write_keys(self.path, keys)
        self.clock.now_s += LOOK_EVERY_S

    def ask(self, headers: dict[str, str] | None = None) -> Any:
        return self.client.post("/v1/colours", json=NUMBERS, headers=headers)


@pytest.fixture
def endpoint(toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path) -> Endpoint:
    return Endpoint(tmp_path, toy_bundle("v1"))


def assert_refused(response: Any, status: int, *, error: str | None = None) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="shopkeeper"')
    assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
    return str(response.json()["detail"])


def test_without_keys_everything_is_answered(endpoint: Endpoint) -> None:
    assert endpoint.ask().status_code == 200
    assert endpoint.client.get("/metrics").status_code == 200


def test_with_keys_a_request_needs_one_and_gets_a_challenge(endpoint: Endpoint) -> None:
    header = endpoint.add("read")

    assert "send an API key" in assert_refused(endpoint.ask(), 401)
    assert endpoint.ask(header).status_code == 200
    assert endpoint.client.get("/v1/models", headers=header).json()["version"] == "7"


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "bearer  ", "Token shopkeeper_00000000_secret"],
)
def test_a_header_without_a_bearer_token_is_no_key(endpoint: Endpoint, given: str) -> None:
    endpoint.add("read")

    assert_refused(endpoint.ask({"Authorization": given}), 401)


def test_a_wrong_key_is_refused_whatever_is_wrong_with_it(endpoint: Endpoint) -> None:
    right = endpoint.add("read")["Authorization"].removeprefix("Bearer ")
    last = "A" if right[-1] != "A" else "B"

    for wrong in (right[:-1], right[:-1] + last, right.swapcase(), "x", "a_b_c", right + "x", f"shopkeeper_00000000_{right[20:]}"):
        assert_refused(endpoint.ask({"Authorization": f"Bearer {wrong}"}), 401, error="invalid_token")


def test_two_authorization_headers_are_no_key(endpoint: Endpoint) -> None:
    (value,) = endpoint.add("read").values()

    twice = [("Authorization", value), ("Authorization", value)]
    assert_refused(endpoint.client.post("/v1/colours", json=NUMBERS, headers=twice), 401)


def test_a_key_without_the_scope_gets_its_name(endpoint: Endpoint) -> None:
    header = endpoint.add("events", "admin")

    assert "no scope 'read', only admin, events" in assert_refused(endpoint.ask(header), 403, error="insufficient_scope")
    assert 'scope="read"' in endpoint.ask(header).headers["www-authenticate"]


def test_a_new_key_is_valid_at_once_and_a_revoked_one_no_longer_after_a_second(endpoint: Endpoint) -> None:
    old = endpoint.add("read")
    key, secret = make_key("new", scopes=["read"])
    assert endpoint.ask(old).status_code == 200

    write_keys(endpoint.path, [key])  # the clock stands still

    assert endpoint.ask({"Authorization": f"Bearer {secret}"}).status_code == 200
    endpoint.clock.now_s += LOOK_EVERY_S
    assert_refused(endpoint.ask(old), 401, error="invalid_token")
    assert LOOK_EVERY_S <= 5.0


def test_a_key_is_refused_from_its_end_on(endpoint: Endpoint) -> None:
    header = endpoint.add("read", ends_s=endpoint.clock.now_s + 100.0)
    assert endpoint.ask(header).status_code == 200

    endpoint.clock.now_s += 100.0

    assert "has ended" in assert_refused(endpoint.ask(header), 401, error="invalid_token")


def test_the_first_key_closes_an_endpoint_that_was_open(endpoint: Endpoint) -> None:
    assert endpoint.ask().status_code == 200

    endpoint.add("read")

    assert_refused(endpoint.ask(), 401)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "damaged", "no keys"])
def test_nothing_that_happens_to_the_file_opens_a_guarded_endpoint(endpoint: Endpoint, damage: str) -> None:
    header = endpoint.add("read")
    endpoint.ask(header)
    match damage:
        case "deleted":
            endpoint.path.unlink()
        case "emptied":
            endpoint.path.write_text("")
        case "damaged":
            endpoint.path.write_text('{"version": 2}')
        case "no keys":
            endpoint.write()
    endpoint.clock.now_s += LOOK_EVERY_S

    assert_refused(endpoint.ask(), 401)
    known = endpoint.ask(header).status_code
    assert known == (200 if damage in ("emptied", "damaged") else 401), "what cannot be read changes nothing"
    endpoint.add("read") if damage == "deleted" else None
    assert_refused(endpoint.ask(), 401)


@pytest.mark.parametrize("content", [None, "", "{"])
def test_an_endpoint_that_requires_keys_refuses_all_without_a_readable_file(
    endpoint: Endpoint, content: str | None
) -> None:
    if content is not None:
        endpoint.path.write_text(content)

    endpoint.load(requires_keys=True)

    assert_refused(endpoint.ask(), 401)


def test_a_damaged_file_at_the_start_is_not_an_open_endpoint(endpoint: Endpoint) -> None:
    endpoint.path.write_text("{")
    endpoint.clock.now_s += LOOK_EVERY_S

    assert_refused(endpoint.ask(), 401)


def test_health_needs_no_key_and_the_description_needs_read(endpoint: Endpoint) -> None:
    reader, other = endpoint.add("read"), endpoint.add("events", name="other")

    assert endpoint.client.get("/healthz").json() == {"status": "ok"}
    assert endpoint.client.get("/openapi.json", headers=reader).status_code == 200
    assert endpoint.client.get("/openapi.json", headers=other).status_code == 403


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/redoc", "/docs/oauth2-redirect"])
def test_metrics_and_the_pages_of_the_documentation_need_admin(endpoint: Endpoint, path: str) -> None:
    reader, operator = endpoint.add("read"), endpoint.add("admin", name="operator")

    assert endpoint.client.get(path).status_code == 401
    assert endpoint.client.get(path, headers=reader).status_code == 403
    assert endpoint.client.get(path, headers=operator).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/events", "events"),
        ("PUT", "/v1/items", "events"),
        ("PUT", "/v1/items/a", "events"),
        ("DELETE", "/v1/items/a", "events"),
        ("DELETE", "/v1/users/a", "erase"),
        ("POST", "/v1/whatever/else", "admin"),
    ],
)
def test_routes_of_other_parts_have_their_scopes_without_code_of_their_own(
    endpoint: Endpoint, method: str, path: str, scope: Scope
) -> None:
    template = path.replace("/a", "/{some_id}")
    endpoint.app.add_api_route(template, lambda: Response("done"), methods=[method], response_model=None)
    right, wrong = endpoint.add(scope), endpoint.add("read", name="wrong")

    assert endpoint.client.request(method, path, headers=right).status_code == 200
    assert assert_refused(endpoint.client.request(method, path, headers=wrong), 403, error="insufficient_scope")


@pytest.mark.parametrize("path", ["/metrics%0A", "/docs%0A", "//metrics", "/metrics/", "/v1/../metrics", "/METRICS"])
def test_no_spelling_of_a_path_gets_past_its_scope(endpoint: Endpoint, path: str) -> None:
    reader = endpoint.add("read")

    response = endpoint.client.get(path, headers=reader, follow_redirects=False)

    assert response.status_code in (307, 403, 404)


def test_a_path_that_does_not_exist_is_a_404_with_any_key_and_a_401_without(endpoint: Endpoint) -> None:
    header = endpoint.add("events")

    assert endpoint.client.get("/v1/nothing", headers=header).status_code == 404
    assert endpoint.client.get("/v1/colours", headers=header).status_code == 405
    assert endpoint.client.get("/v1/nothing").status_code == 401


def test_a_refused_body_is_not_read(endpoint: Endpoint) -> None:
    endpoint.add("read")
    read = []

    def body() -> Any:
        read.append(True)
        yield b"{}"

    async def ask() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            read.append(True)
            return {"type": "http.request", "body": b"", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/colours", "headers": [], "query_string": b""}
        await endpoint.app(scope, receive, send)
        return sent

    assert asyncio.run(ask())[0]["status"] == 401
    assert read == []
