"""Metrics: what is counted, that the page is in Prometheus' format, and that replicas add up to one page."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from models.family import Family
from serve.exposition import page
from serve.metrics import (
    BATCH_SIZE,
    DEFINITIONS,
    EVENTS,
    FEATURE_STORE_ERRORS,
    MODEL_LOADED,
    OPEN_CONNECTIONS,
    REQUEST_SECONDS,
    REQUESTS,
    Metrics,
)
from serve.shared_metrics import ALIVE_S, KEEP_ENDED_S, SharedMetrics
from tests.kit.guarded_toy import GuardedToy
from tests.serve.test_service import client_of, loaded, shop_bundle

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
PROXY = """# HELP haproxy_process_current_connections Number of connections.
# TYPE haproxy_process_current_connections gauge
haproxy_process_current_connections 3
# HELP haproxy_process_nbthread Number of threads.
# TYPE haproxy_process_nbthread gauge
haproxy_process_nbthread 1
"""


def samples(text: str) -> Samples:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


@pytest.fixture
def endpoint(toy: Family, toy_bundle: Callable[..., Path], tmp_path: Path) -> GuardedToy:
    return GuardedToy(tmp_path, toy_bundle("v1"))


@pytest.fixture
def metrics() -> Metrics:
    """One value of every metric, with labels that need escapes."""
    made = Metrics("toy")
    for each in DEFINITIONS.values():
        labels = [f'a "{name}"\\ of\nlines' for name in each.labels]
        if each.kind == "histogram":
            made.observe(each, *labels, value=0.3)
        else:
            made.count(each, *labels, by=2)
    return made


def test_requests_are_counted_by_route_and_code_with_their_time(endpoint: GuardedToy) -> None:
    for _ in range(3):
        endpoint.ask()
    endpoint.client.post("/v1/colours", json={"numbers": "?"})
    endpoint.client.get("/v1/somebody-invented-this")
    endpoint.client.request("INVENT", "/v1/colours")

    text = endpoint.client.get("/metrics").text

    asked = {"family": "toy", "method": "POST", "route": "/v1/colours"}
    assert value(text, "shopkeeper_requests_total", **asked, code="200") == 3
    assert value(text, "shopkeeper_requests_total", **asked, code="422") == 1
    assert value(text, "shopkeeper_request_seconds_count", **asked, code="200") == 3
    assert value(text, "shopkeeper_request_seconds_bucket", **asked, code="200", le="30") == 3
    assert "invent" not in text.lower(), "labels must not be anybody's invention"
    assert value(text, "shopkeeper_requests_total", family="toy", method="GET", route="none", code="404") == 1


def test_refused_requests_and_failures_are_counted(endpoint: GuardedToy, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(endpoint.service, "answer", fail)
    endpoint.ask()
    operator = endpoint.add("admin")
    endpoint.ask()
    endpoint.ask(operator)

    text = endpoint.client.get("/metrics", headers=operator).text

    asked = {"family": "toy", "method": "POST", "route": "/v1/colours"}
    assert value(text, "shopkeeper_requests_total", **asked, code="500") == 1
    assert value(text, "shopkeeper_refused_total", family="toy", reason="key") == 1
    assert value(text, "shopkeeper_refused_total", family="toy", reason="scope") == 1


def test_answers_of_the_recommender_are_counted_by_source_and_empty_ones_apart(tmp_path: Path) -> None:
    client = client_of(loaded("recommender", version="3", bundle=shop_bundle(tmp_path / "v3")))
    client.post("/v1/recommendations", json={"history": ["item-1"]})
    client.post("/v1/recommendations", json={})
    everything = [f"item-{number}" for number in range(20)]
    client.post("/v1/recommendations", json={"history": ["item-1"], "exclude": everything})

    text = client.get("/metrics").text

    path = {"family": "recommender", "path": "/v1/recommendations"}
    assert value(text, "shopkeeper_answers_total", **path, source="personal") == 2
    assert value(text, "shopkeeper_answers_total", **path, source="popular") == 1
    assert value(text, "shopkeeper_empty_answers_total", **path) == 1
    assert value(text, "shopkeeper_predictions_total", **path, model_version="3") == 3
    assert value(text, "shopkeeper_batch_size_sum", **path) == 3


def test_the_page_says_which_model_is_served_and_that_another_was_rejected(
    endpoint: GuardedToy, tmp_path: Path
) -> None:
    endpoint.bundle = tmp_path / "missing"
    endpoint.load()
    endpoint.load(requires_keys=False, request_log_sample=0.5)

    text = endpoint.client.get("/metrics").text

    assert value(text, "shopkeeper_model_info", family="toy", model_version="7", network="linear") == 1
    assert value(text, "shopkeeper_model_reloads_total", family="toy", outcome="loaded") == 1
    assert value(text, "shopkeeper_model_reloads_total", family="toy", outcome="rejected") == 2
    assert (value(text, "shopkeeper_model_loaded_timestamp_seconds", family="toy") or 0) > time.time() - 3600


def test_every_metric_is_in_the_format_of_prometheus(metrics: Metrics) -> None:
    text = page([metrics.snapshot()])

    found = samples(text)
    assert len({name for name, _ in found}) == sum(
        3 if each.kind == "histogram" else 1 for each in DEFINITIONS.values()
    )
    labels = dict(next(labels for name, labels in found if name == EVENTS.name))
    assert labels == {"family": "toy", "outcome": 'a "outcome"\\ of\nlines'}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of the Debian package prometheus, is not installed"
)
def test_promtool_accepts_the_page(metrics: Metrics) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page([metrics.snapshot()]), text=True, capture_output=True
    )

    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_buckets_are_cumulative_and_a_bound_belongs_to_its_bucket() -> None:
    metrics = Metrics("toy")
    for size in (1, 2, 3, 100):
        metrics.observe(BATCH_SIZE, "/v1/x", value=size)

    text = page([metrics.snapshot()])

    found = {
        le: value(text, "shopkeeper_batch_size_bucket", family="toy", path="/v1/x", le=le)
        for le in ("1", "2", "4", "64", "+Inf")
    }
    assert found == {"1": 1, "2": 2, "4": 3, "64": 3, "+Inf": 4}
    assert value(text, "shopkeeper_batch_size_sum", family="toy", path="/v1/x") == 106


def replica(directory: Path, family: str = "toy") -> tuple[Metrics, SharedMetrics]:
    metrics = Metrics(family)
    return metrics, SharedMetrics(metrics, directory)


def test_any_replica_has_the_counts_of_all_replicas_and_families(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    (first, shared_first), (second, shared_second), (image, shared_image) = (
        replica(directory),
        replica(directory),
        replica(directory, "image"),
    )
    for number, (metrics, shared) in enumerate(
        ((first, shared_first), (second, shared_second), (image, shared_image)), 1
    ):
        metrics.count(EVENTS, "accepted", by=number)
        metrics.observe(REQUEST_SECONDS, "POST", "/v1/x", "200", value=0.02)
        metrics.set(MODEL_LOADED, value=1000 + number)
        shared.write(metrics.snapshot())
    first.count(EVENTS, "accepted", by=10)  # not written yet

    text = shared_first.page()

    assert value(text, "shopkeeper_events_total", family="toy", outcome="accepted") == 13
    assert value(text, "shopkeeper_events_total", family="image", outcome="accepted") == 3
    counted = {"family": "toy", "method": "POST", "route": "/v1/x", "code": "200"}
    assert value(text, "shopkeeper_request_seconds_bucket", **counted, le="0.025") == 2
    assert value(text, "shopkeeper_model_loaded_timestamp_seconds", family="toy") == 1002
    assert value(text, "shopkeeper_replicas", family="toy") == 2
    assert shared_second.num_replicas == 2


def test_a_replica_that_has_ended_keeps_its_counters_and_loses_its_gauges(tmp_path: Path) -> None:
    (ended, shared_ended), (alive, shared_alive) = replica(tmp_path), replica(tmp_path)
    ended.count(REQUESTS, "POST", "/v1/x", "200", by=5)
    ended.count(OPEN_CONNECTIONS, by=4)
    shared_ended.write(ended.snapshot())
    (path,) = tmp_path.glob("*.json")
    long_ago_s = time.time() - ALIVE_S - 1
    os.utime(path, (long_ago_s, long_ago_s))

    shared_alive.write(alive.snapshot())

    text = shared_alive.page()
    assert value(text, "shopkeeper_requests_total", family="toy", method="POST", route="/v1/x", code="200") == 5
    assert value(text, "shopkeeper_open_connections", family="toy") is None
    assert value(text, "shopkeeper_replicas", family="toy") == 1
    assert shared_alive.num_replicas == 1


def test_files_of_replicas_that_ended_long_ago_are_removed(tmp_path: Path) -> None:
    (ended, shared_ended), (alive, shared_alive) = replica(tmp_path), replica(tmp_path)
    shared_ended.write(ended.snapshot())
    (path,) = tmp_path.glob("*.json")
    long_ago_s = time.time() - KEEP_ENDED_S - 1
    os.utime(path, (long_ago_s, long_ago_s))

    shared_alive.write(alive.snapshot())

    assert not path.exists()


def test_an_idle_replica_stays_alive(tmp_path: Path) -> None:
    metrics, shared = replica(tmp_path)
    shared.write(metrics.snapshot())
    (path,) = tmp_path.glob("*.json")
    os.utime(path, (0, 0))

    shared.write(metrics.snapshot())

    assert time.time() - path.stat().st_mtime < ALIVE_S


def test_damaged_and_foreign_files_do_not_break_the_page(tmp_path: Path) -> None:
    metrics, shared = replica(tmp_path)
    metrics.count(FEATURE_STORE_ERRORS)
    (tmp_path / "toy-1.json").write_text("{")
    (tmp_path / "toy-2.json").write_text("[]")
    foreign = {"family": "toy", "numbers": {"former": [[["x"], 1]], EVENTS.name: [[["a", "b"], 1]]}, "buckets": {}}
    (tmp_path / "toy-3.json").write_text(json.dumps(foreign))

    assert value(shared.page(), "shopkeeper_feature_store_errors_total", family="toy") == 1


def test_the_shared_counts_are_private(tmp_path: Path) -> None:
    metrics, shared = replica(tmp_path / "metrics")

    shared.write(metrics.snapshot())

    assert stat.S_IMODE((tmp_path / "metrics").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "metrics").iterdir()} == {0o600}


@pytest.fixture
def proxy_port() -> Iterator[int]:
    """A proxy that exports metrics."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PROXY.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_port)
        server.shutdown()


def test_the_page_passes_on_some_metrics_of_the_proxy_and_says_when_it_cannot(
    endpoint: GuardedToy, tmp_path: Path, proxy_port: int
) -> None:
    record = tmp_path / "cluster.json"
    record.write_text(json.dumps({"ports": {"haproxy_metrics": proxy_port}}))
    endpoint.load(cluster=record)

    with_proxy = endpoint.client.get("/metrics").text
    record.unlink()
    without = endpoint.client.get("/metrics").text

    assert value(with_proxy, "haproxy_process_current_connections") == 3
    assert value(with_proxy, "shopkeeper_proxy_up") == 1
    assert "nbthread" not in with_proxy
    assert value(without, "shopkeeper_proxy_up") == 0
    assert value(without, "shopkeeper_model_info", family="toy", model_version="7", network="linear") == 1


def test_the_service_shares_its_counts_where_the_settings_say(endpoint: GuardedToy, tmp_path: Path) -> None:
    endpoint.load(metrics=tmp_path / "shared")
    other, shared_other = replica(tmp_path / "shared")
    other.count(EVENTS, "accepted")
    shared_other.write(other.snapshot())

    async def share() -> None:
        endpoint.service.share_metrics()

    with TestClient(endpoint.app) as client:
        assert client.portal is not None
        client.portal.call(share)
        assert value(client.get("/metrics").text, "shopkeeper_events_total", family="toy", outcome="accepted") == 1
        assert endpoint.service.guard.num_replicas() >= 1
