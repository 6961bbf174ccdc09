"""The HAProxy of an endpoint without a cluster: Ray's configuration, our wrapper, the real program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from jobs.cluster import haproxy
from jobs.cluster.head_environment import haproxy_binary
from jobs.cluster.ports import free_port

NAME = "haproxy.cfg"


def render(directory: Path, *, port: int, replica_port: int | None, max_connections: int = 400, **settings: Any) -> str:
    """What Ray would write to `haproxy.cfg` for an application at /, or before it knows any."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port, keep_alive_timeout_s=75),
        is_head=True,
        has_received_routes=True,
        socket_path=str(directory / "admin.sock"),
        server_state_base=str(directory),
        server_state_file=str(directory / "server-state"),
        metrics_socket_path=str(directory / "metrics.sock"),
        maxconn=max_connections,
        stats_port=free_port(),
        metrics_port=free_port(),
        timeout_client_s=30,
        timeout_server_s=30,
        **settings,
    )
    replicas = [ServerConfig(name="replica", host="127.0.0.1", port=replica_port)] if replica_port else []
    backend = BackendConfig(name="http-toy", path_prefix="/", app_name="toy", servers=replicas)
    api = HAProxyApi(config, {"http-toy": backend} if replicas else {}, config_file_path=str(directory / NAME))
    api._generate_config_file_internal()
    return (directory / NAME).read_text(encoding="utf-8")


def wrapper(binary: str | Path, *arguments: str) -> list[str]:
    """The command by which a cluster starts a program in place of HAProxy."""
    return [sys.executable, "-I", haproxy.__file__, str(binary), *arguments]


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real HAProxy on the configuration in a directory."""
    command = wrapper(haproxy_binary(), "-db", "-f", str(directory / NAME))
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()
