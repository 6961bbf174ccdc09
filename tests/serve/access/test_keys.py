"""Keys of an endpoint: who is let in, who is not, and that nothing opens a guarded endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import Response

from models.keys import Scope, make_key, write_keys
from serve.access.guard import LOOK_EVERY_S
from tests.kit.guarded_toy import NUMBERS, GuardedToy


def assert_refused(response: Any, status: int, *, error: str | None = None) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    challenge = response.headers["www-authenticate"]
    assert challenge.startswith('Bearer realm="shopkeeper"')
    assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
    return str(response.json()["detail"])


def test_without_keys_everything_is_answered(endpoint: GuardedToy) -> None:
    assert endpoint.ask().status_code == 200
    assert endpoint.client.get("/metrics").status_code == 200


def test_with_keys_a_request_needs_one_and_gets_a_challenge(endpoint: GuardedToy) -> None:
    header = endpoint.add("read")

    assert "send an API key" in assert_refused(endpoint.ask(), 401)
    assert endpoint.ask(header).status_code == 200
    assert endpoint.client.get("/v1/models", headers=header).json()["version"] == "7"


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "bearer  ", "Token shopkeeper_00000000_secret"],
)
def test_a_header_without_a_bearer_token_is_no_key(endpoint: GuardedToy, given: str) -> None:
    endpoint.add("read")

    assert_refused(endpoint.ask({"Authorization": given}), 401)


def test_a_wrong_key_is_refused_whatever_is_wrong_with_it(endpoint: GuardedToy) -> None:
    right = endpoint.add("read")["Authorization"].removeprefix("Bearer ")
    last = "A" if right[-1] != "A" else "B"

    for wrong in (
        right[:-1],
        right[:-1] + last,
        right.swapcase(),
        "x",
        "a_b_c",
        right + "x",
        f"shopkeeper_00000000_{right[20:]}",
    ):
        assert_refused(endpoint.ask({"Authorization": f"Bearer {wrong}"}), 401, error="invalid_token")


def test_two_authorization_headers_are_no_key(endpoint: GuardedToy) -> None:
    (value,) = endpoint.add("read").values()

    twice = [("Authorization", value), ("Authorization", value)]
    assert_refused(endpoint.client.post("/v1/colours", json=NUMBERS, headers=twice), 401)


def test_a_key_without_the_scope_gets_its_name(endpoint: GuardedToy) -> None:
    header = endpoint.add("events", "admin")

    assert "no scope 'read', only admin, events" in assert_refused(
        endpoint.ask(header), 403, error="insufficient_scope"
    )
    assert 'scope="read"' in endpoint.ask(header).headers["www-authenticate"]


def test_a_new_key_is_valid_at_once_and_a_revoked_one_no_longer_after_a_second(endpoint: GuardedToy) -> None:
    old = endpoint.add("read")
    key, secret = make_key("new", scopes=["read"])
    assert endpoint.ask(old).status_code == 200

    write_keys(endpoint.path, [key])  # the clock stands still

    assert endpoint.ask({"Authorization": f"Bearer {secret}"}).status_code == 200
    endpoint.clock.now_s += LOOK_EVERY_S
    assert_refused(endpoint.ask(old), 401, error="invalid_token")
    assert LOOK_EVERY_S <= 5.0


def test_a_key_is_refused_from_its_end_on(endpoint: GuardedToy) -> None:
    header = endpoint.add("read", ends_s=endpoint.clock.now_s + 100.0)
    assert endpoint.ask(header).status_code == 200

    endpoint.clock.now_s += 100.0

    assert "has ended" in assert_refused(endpoint.ask(header), 401, error="invalid_token")


def test_the_first_key_closes_an_endpoint_that_was_open(endpoint: GuardedToy) -> None:
    assert endpoint.ask().status_code == 200

    endpoint.add("read")

    assert_refused(endpoint.ask(), 401)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "damaged", "no keys"])
def test_nothing_that_happens_to_the_file_opens_a_guarded_endpoint(endpoint: GuardedToy, damage: str) -> None:
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


@pytest.mark.parametrize("content", [None, "", "{"])
def test_an_endpoint_that_requires_keys_refuses_all_without_a_readable_file(
    endpoint: GuardedToy, content: str | None
) -> None:
    if content is not None:
        endpoint.path.write_text(content)

    endpoint.load(requires_keys=True)

    assert_refused(endpoint.ask(), 401)


def test_a_damaged_file_at_the_start_is_not_an_open_endpoint(endpoint: GuardedToy) -> None:
    endpoint.path.write_text("{")
    endpoint.clock.now_s += LOOK_EVERY_S

    assert_refused(endpoint.ask(), 401)


def test_health_needs_no_key_and_the_description_needs_read(endpoint: GuardedToy) -> None:
    reader, other = endpoint.add("read"), endpoint.add("events", name="other")

    assert endpoint.client.get("/healthz").json() == {"status": "ok"}
    assert endpoint.client.get("/openapi.json", headers=reader).status_code == 200
    assert endpoint.client.get("/openapi.json", headers=other).status_code == 403


@pytest.mark.parametrize("path", ["/metrics", "/docs", "/redoc", "/docs/oauth2-redirect"])
def test_metrics_and_the_pages_of_the_documentation_need_admin(endpoint: GuardedToy, path: str) -> None:
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
    endpoint: GuardedToy, method: str, path: str, scope: Scope
) -> None:
    template = path.replace("/a", "/{some_id}")
    endpoint.app.add_api_route(template, lambda: Response("done"), methods=[method], response_model=None)
    right, wrong = endpoint.add(scope), endpoint.add("read", name="wrong")

    assert endpoint.client.request(method, path, headers=right).status_code in (200, 503), "a toy cannot erase"
    assert assert_refused(endpoint.client.request(method, path, headers=wrong), 403, error="insufficient_scope")


@pytest.mark.parametrize("path", ["/metrics%0A", "/docs%0A", "//metrics", "/metrics/", "/METRICS"])
def test_no_spelling_of_a_path_gets_past_its_scope(endpoint: GuardedToy, path: str) -> None:
    reader = endpoint.add("read")

    response = endpoint.client.get(path, headers=reader, follow_redirects=False)

    assert response.status_code == (403 if "%0A" in path else 307 if path.endswith("/") else 404)


def test_a_path_that_does_not_exist_is_a_404_with_any_key_and_a_401_without(endpoint: GuardedToy) -> None:
    header = endpoint.add("events")

    assert endpoint.client.get("/v1/nothing", headers=header).status_code == 404
    assert endpoint.client.get("/v1/colours", headers=header).status_code == 405
    assert endpoint.client.get("/v1/nothing").status_code == 401


def test_a_refused_body_is_not_read(endpoint: GuardedToy) -> None:
    endpoint.add("read")
    read: list[bool] = []

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


def test_a_first_key_that_came_and_went_while_nobody_asked_does_not_leave_the_endpoint_open(
    endpoint: GuardedToy,
) -> None:
    assert endpoint.ask().status_code == 200
    endpoint.add("read")
    endpoint.service.guard.refresh()  # as Serve's health checks do
    endpoint.path.unlink()

    assert_refused(endpoint.ask(), 401)
