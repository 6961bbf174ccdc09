"""The health of an endpoint: fake servers stand for each fault, and what status says of it comes in time."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from jobs import status
from jobs.__main__ import main
from jobs.cli.context import Context, Store
from jobs.cluster.ports import free_port
from jobs.cluster.processes import Holder
from jobs.serving.access import changed_keys, internal_key
from jobs.serving.config import (
    PinnedModel,
    Size,
    application,
    config_path,
    empty_config,
    with_application,
    write_config,
)
from jobs.serving.health import assess
from jobs.serving.probe import Answer, Facts
from tests.kit.shop import SHOP

OK = {"family": "recommender", "version": "4", "digest": "d"}
HEALTHY = Facts(
    url="http://shop",
    port=8000,
    version="4",
    min_replicas=2,
    cluster="running",
    answers=[Answer(status=200, content=OK)] * 4,
    serve={
        "status": "RUNNING",
        "deployments": {"Model": {"target_num_replicas": 2, "replicas": [{"state": "RUNNING"}] * 2, "message": ""}},
    },
    store="/shop",
)
REFUSED = [Answer(error="refused", is_refused=True)] * 4
FAILING = [Answer(status=500)] * 4
ONE_REPLICA = {"status": "RUNNING", "deployments": {"Model": {"target_num_replicas": 2, "replicas": [{}]}}}
BROKEN = {
    "status": "UNHEALTHY",
    "deployments": {"Model": {"replicas": [{"state": "RUNNING"}], "message": "retrying\nOSError: the disk is gone"}},
}


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, "ok", "ok"),
        ({"answers": REFUSED, "cluster": "none"}, "down", "down"),
        ({"answers": REFUSED, "cluster": "dead"}, "cluster dead", "`shopkeeper deploy` starts it again"),
        ({"answers": REFUSED}, "down", "nothing listens on port 8000"),
        ({"answers": FAILING}, "no replica", "the proxy is up, but no replica answers"),
        ({"answers": FAILING, "serve": BROKEN}, "no replica", "OSError: the disk is gone"),
        ({"serve": ONE_REPLICA}, "fewer replicas", "0 of 2 replicas run"),
        ({"serve": BROKEN}, "cannot restart", "1 of 2 replicas run, and one cannot start: OSError: the disk is gone"),
        ({"answers": [*FAILING[:1], *HEALTHY.answers[:3]]}, "fewer replicas", "1 of 4 requests failed: status 500"),
        (
            {"answers": FAILING, "cluster": "dead", "held_by": Holder("haproxy", "/shop")},
            "orphan",
            "haproxy that it left",
        ),
        ({"answers": [Answer(status=401)] * 4}, "unknown", "it requires an API key"),
        ({"answers": FAILING, "held_by": Holder("nginx", None)}, "stranger", "held by nginx, which is not"),
        ({"answers": FAILING, "held_by": Holder("haproxy", "/other")}, "stranger", "of the store /other"),
        ({"gcs_error": "refused"}, "gcs dead", "it still answers, but the control service"),
        ({"answers": FAILING, "gcs_error": "refused"}, "gcs dead", "so nothing restarts; it responds with 500"),
        ({"cluster": "dead", "serve": None}, "cluster dead", "nothing restarts what fails"),
        ({"answers": [Answer(status=200, content={**OK, "degraded": "no store"})]}, "degraded", "degraded: no store"),
        ({"answers": [Answer(status=200, content={**OK, "version": "3"})]}, "other version", "version 3 is served"),
        ({"serve": None, "serve_error": "late"}, "unknown", "its replicas are unknown: late"),
        ({"serve": None, "cluster": "none"}, "ok", "ok"),
    ],
)
def test_each_fault_has_its_own_state(changes: dict[str, Any], state: str, said: str) -> None:
    found = assess(dataclasses.replace(HEALTHY, **changes), remedy="shopkeeper deploy")

    assert found.state == state
    assert said in found.text
    assert found.is_healthy == (state == "ok")


# With fake servers


@contextmanager
def answering(code: int, body: bytes, *, port: int = 0, key: str | None = None) -> Iterator[int]:
    """A server of this process that gives one answer, with a key only to requests that send it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_refused = key is not None and self.headers["Authorization"] != f"Bearer {key}"
            self.send_response(401 if is_refused else code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Discard the access log."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def silent() -> Iterator[int]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def shown(store: Store, port: int, *, timeout_s: float = 60.0) -> dict[str, Any]:
    deploy_config(store, port)
    outcome = status.run(Context(store=store), SHOP, status.Options(timeout_s=timeout_s), None)
    assert (outcome.exit_code, outcome.status) == ((0, "ok") if outcome.details["healthy"] else (5, "unhealthy"))
    found: dict[str, Any] = outcome.details["families"]["recommender"]["deployed"]
    return found


def deploy_config(store: Store, port: int) -> None:
    model = PinnedModel("4", store.serve / "models" / "recommender" / "4", "d")
    config = with_application(
        empty_config(host="127.0.0.1", port=port), application(SHOP, model, feature_store=None, size=Size())
    )
    write_config(config_path(store), config)


def test_a_replica_that_answers_is_ok_and_one_that_is_degraded_is_not(store: Store) -> None:
    with answering(200, json.dumps(OK).encode()) as port:
        assert (shown(store, port)["state"], shown(store, port)["answering"]) == ("ok", OK)
    with answering(200, json.dumps({**OK, "degraded": "the feature store is damaged"}).encode()) as port:
        assert shown(store, port)["health"] == "degraded: the feature store is damaged"


def test_a_strangers_server_is_named_with_its_process(store: Store) -> None:
    with answering(404, b"<html>") as port:
        found = shown(store, port)

    assert found["state"] == "stranger"
    assert f"port {port} is held by python" in found["health"]
    assert "it responds with 404" in found["health"]


def test_a_server_that_never_answers_does_not_hold_status_up(store: Store) -> None:
    with silent() as port:
        started_s = time.monotonic()
        found = shown(store, port, timeout_s=2.0)
        took_s = time.monotonic() - started_s

    assert found["state"] in ("stranger", "no answer")
    assert took_s < 20


def test_a_damaged_config_is_said(store: Store) -> None:
    deploy_config(store, free_port())
    config_path(store).write_text("applications:\n- name: recommender\n  deployments: []\n")

    found = status.run(Context(store=store), SHOP, status.Options(timeout_s=60), None)

    assert "is damaged" in found.details["families"]["recommender"]["deployed"]["health"]
    assert found.exit_code == 5


def test_the_command_exits_with_5_and_prints_what_is_wrong(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    deploy_config(store, free_port())
    store.cluster.mkdir()
    (store.cluster / "cluster.json").write_text("{}")

    code = main(["status", "recommender", "--timeout-s", "60", "--store", str(store.root)])

    assert code == 5
    assert "down: the cluster of this store has died" in capsys.readouterr().out


def test_an_endpoint_with_keys_is_asked_with_the_key_of_the_verbs(store: Store) -> None:
    with changed_keys(store):
        pass

    with answering(200, json.dumps(OK).encode(), key=internal_key(store)) as port:
        assert shown(store, port)["state"] == "ok"
        store.internal_key.write_text("another")
        assert "it responds with 401" in shown(store, port)["health"]
