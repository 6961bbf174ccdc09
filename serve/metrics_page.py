"""`GET /metrics`: the one page that Prometheus reads, of all replicas and families of a store and of its proxy."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI, Response

from serve.exposition import MEDIA_TYPE, page
from serve.service import Service

FETCH_TIMEOUT_S = 2.0
MAX_FETCHED_BYTES = 8 * 1024 * 1024
FOREIGN = re.compile(
    r"haproxy_(frontend|backend)_(http_requests_total|http_responses_total|connections_total|sessions_total|"
    r"current_sessions|current_queue|active_servers|response_errors_total|connection_errors_total|retry_warnings_total|"
    r"redispatch_warnings_total|requests_denied_total|http_requests_rate_current|status)"
    r"|haproxy_process_(current_connections|connections_total|start_time_seconds|max_connections)"
)
"""Metrics of the proxy that are passed on; it has some hundred more."""
SAMPLE_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def add_metrics_page(app: FastAPI, service: Service) -> None:
    """Add the route; it needs a key with the scope admin."""

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response, include_in_schema=False)
    async def metrics() -> Response:
        # In a thread, as it reads files and asks the proxy.
        text = await asyncio.to_thread(_page, service)
        return Response(text, headers={"Content-Type": MEDIA_TYPE})


def _page(service: Service) -> str:
    shared = service.shared_metrics
    own = page([service.metrics.snapshot()]) if shared is None else shared.page()
    record = service.cluster_record
    return own if record is None else own + "".join(f"{line}\n" for line in _of_proxy(record))


def _of_proxy(record: Path) -> Iterator[str]:
    """What the proxy of the local cluster exports, and whether it could be asked."""
    text = None
    with suppress(OSError, ValueError, KeyError):
        port = int(json.loads(record.read_bytes())["ports"]["haproxy_metrics"])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=FETCH_TIMEOUT_S) as response:
            text = response.read(MAX_FETCHED_BYTES).decode(errors="replace")
    yield "# HELP shopkeeper_proxy_up Whether the proxy's own metrics could be read."
    yield "# TYPE shopkeeper_proxy_up gauge"
    yield f"shopkeeper_proxy_up {int(text is not None)}"
    yield from passed_on((text or "").splitlines())


def passed_on(lines: Iterable[str]) -> Iterator[str]:
    """The lines of the proxy's metrics that are passed on, with their descriptions."""
    for line in lines:
        words = line.split(maxsplit=3)
        name = words[2] if line.startswith("#") and len(words) > 2 else line
        found = SAMPLE_NAME.match(name)
        if found and FOREIGN.fullmatch(found.group()):
            yield line
