"""The defaults that SECURITY.md promises; each fails here if it is loosened."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import deploy
from jobs.cli.context import Store
from jobs.serving.access import access_settings, is_loopback
from models import FAMILIES
from models.keys import KEY_FILE_MODE, NUM_SECRET_BYTES
from serve.access.guard import LOOK_EVERY_S
from serve.access.request_log import FILE_MODE
from serve.access.scopes import OPEN, TABLE
from serve.problems import MAX_BODY_BYTES, REQUEST_TIMEOUT_S
from serve.routes import make_app
from serve.service import Service, Settings


def test_an_endpoint_listens_on_loopback_guarded_and_without_a_log_unless_told_otherwise(tmp_path: Path) -> None:
    access = deploy._access(FAMILIES["recommender"], deploy.Options(), None)

    assert is_loopback(access.host)
    assert not access.unguarded
    rendered = access_settings(Store(tmp_path), access)
    assert rendered["request_log"] is None
    assert rendered["request_log_sample"] <= 0.01


def test_secrets_are_long_and_their_files_private() -> None:
    assert NUM_SECRET_BYTES >= 32
    assert KEY_FILE_MODE == FILE_MODE == 0o600


def test_a_change_of_keys_is_seen_within_5_s() -> None:
    assert LOOK_EVERY_S <= 5.0


def test_only_health_is_open_and_nothing_but_reading_needs_read() -> None:
    assert [route for route, scope in TABLE.items() if scope == OPEN] == [("GET", "/healthz")]
    assert {method for (method, _), scope in TABLE.items() if scope == "read"} <= {"GET", "HEAD"}
    assert {scope for (_, path), scope in TABLE.items() if path.startswith("/users")} == {"erase"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_route_of_every_family_but_health_needs_a_key(name: str) -> None:
    service = Service(name)
    service.guard.configure(None, is_required=True)
    app = make_app(service)
    gate = next(each for each in app.user_middleware if "guard" in each.kwargs)

    assert app.user_middleware[0] is gate, "nothing of a request is read before its key is checked"
    scopes = gate.cls(app, **gate.kwargs)._scopes  # type: ignore[call-arg, attr-defined]
    needed = {}
    for route in app.routes:
        path: str = getattr(route, "path")  # noqa: B009
        for method in getattr(route, "methods", None) or []:
            request = {"type": "http", "method": method, "path": path, "headers": []}
            needed[method, path] = scopes.required(request)
    assert [route for route, scope in needed.items() if scope == "open"] == [("GET", "/healthz")]
    assert "any" not in needed.values()
    assert {path for (_, path), scope in needed.items() if scope == "admin"} == {
        "/docs",
        "/docs/oauth2-redirect",
        "/metrics",
        "/redoc",
    }


def test_requests_are_limited_in_size_and_time() -> None:
    assert MAX_BODY_BYTES <= 1024 * 1024
    assert REQUEST_TIMEOUT_S <= 30.0


def test_settings_of_earlier_releases_mean_what_they_meant() -> None:
    settings = Settings.model_validate({"version": "1", "bundle": "b"})

    assert (settings.keys, settings.requires_keys, settings.request_log) == (None, False, None)
