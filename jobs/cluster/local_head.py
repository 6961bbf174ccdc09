"""The local Ray cluster of a store: a background process that outlives its starter, and how to stop it."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import Failure, Store, log
from jobs.cluster.packages import search_path
from jobs.cluster.processes import STORE_VARIABLE, created_s, end_tree, running_process
from models.files import create_text, write_text

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 1024**3
"""Models and batches are small; Ray's default of 30 % of the memory would be missing for training."""
MAX_TEMP_DIR_LENGTH = 40
"""Ray creates unix sockets with paths about 60 characters longer, and the limit is 107."""
PREFERRED_DASHBOARD_PORT = 8265
RAY_PORTS = ("gcs", "client", "metrics", "dashboard_agent")
SERVE_PORTS = ("haproxy_stats", "haproxy_metrics", "fallback_http", "fallback_grpc")


@dataclass(frozen=True)
class ClusterInfo:
    """The local cluster as recorded in cluster.json."""

    address: str
    """host:port of Ray's GCS."""
    dashboard_url: str
    pid: int
    """The root of the cluster's process tree."""
    started_s: float
    """Creation time of that process in epoch seconds; tells it from a later process with the same pid."""
    temp_dir: str
    token_path: str
    ports: dict[str, int]
    store: list[int] | None = None
    """Identity of the store's directory; unknown if 0.2.0 or an earlier release started it."""


def running_head(store: Store) -> ClusterInfo | None:
    """The running local cluster of a store, or None; that of a store of which this one is a copy does not count."""
    recorded = store.cluster / "cluster.json"
    if not recorded.is_file():
        return None
    try:
        info = ClusterInfo(**json.loads(recorded.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        log.warning("ignoring %s, which is damaged", recorded)
        return None
    if info.store not in (None, identity(store)):
        return None
    if not Path(info.token_path).is_file():  # in the store, where it was before
        info = dataclasses.replace(info, token_path=str(token_file(store)))
    return info if running_process(info.pid, info.started_s) is not None else None


def start_head(store: Store) -> ClusterInfo:
    """Start a local cluster that outlives this process, or return the running one; raises Failure."""
    running = running_head(store)
    if running:
        return running
    ports, token = _free_ports(), token_file(store).read_text(encoding="utf-8")
    log_path = store.cluster / "head.log"
    with ExitStack() as undo:
        temp_dir = _short_temp_dir()
        undo.callback(shutil.rmtree, temp_dir, ignore_errors=True)
        token_path = temp_dir / "token"  # not in the store, which may be moved while workers are started
        create_text(token_path, token, mode=0o600)
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                _head_command(temp_dir, ports),
                env={
                    **_head_environment(temp_dir, token_path=token_path, ports=ports),
                    STORE_VARIABLE: str(store.root),
                },
                cwd=temp_dir,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        undo.callback(end_tree, process.pid, timeout_s=STOP_TIMEOUT_S)
        info = ClusterInfo(
            address="",
            dashboard_url=f"http://127.0.0.1:{ports['dashboard']}",
            pid=process.pid,
            started_s=created_s(process.pid),
            temp_dir=str(temp_dir),
            token_path=str(token_path),
            ports=ports,
            store=identity(store),
        )
        info = dataclasses.replace(info, address=_wait_for_head(process, info, log_path))
        write_text(store.cluster / "cluster.json", json.dumps(dataclasses.asdict(info), indent=1), mode=0o600)
        undo.pop_all()
    return info


def stop_head(store: Store) -> bool:
    """Stop the local cluster of a store; returns whether one was running."""
    recorded = store.cluster / "cluster.json"
    info = running_head(store)
    if info:
        end_tree(info.pid, timeout_s=STOP_TIMEOUT_S)
        shutil.rmtree(info.temp_dir, ignore_errors=True)
    recorded.unlink(missing_ok=True)
    return info is not None


def identity(store: Store) -> list[int]:
    """What a store's directory keeps when it is moved, and a copy of it does not have."""
    found = store.root.stat()
    return [found.st_dev, found.st_ino]


def headers(info: ClusterInfo) -> dict[str, str]:
    """The HTTP headers that the local dashboard requires."""
    return {"Authorization": f"Bearer {Path(info.token_path).read_text(encoding='utf-8').strip()}"}


def token_file(store: Store) -> Path:
    """The store's token file, readable by its owner only; created if missing."""
    path = store.cluster / "token"
    if not path.is_file():
        create_text(path, secrets.token_hex(32), mode=0o600)
    return path


def _short_temp_dir() -> Path:
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="shop-", dir=parent if len(parent) < MAX_TEMP_DIR_LENGTH else "/tmp"))


def _free_ports() -> dict[str, int]:
    with ExitStack() as held:
        ports = {name: held.enter_context(_bound_port(0)) for name in RAY_PORTS + SERVE_PORTS}
        try:
            ports["dashboard"] = held.enter_context(_bound_port(PREFERRED_DASHBOARD_PORT))
        except OSError:
            ports["dashboard"] = held.enter_context(_bound_port(0))
    return ports


@contextmanager
def _bound_port(port: int) -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("", port))
        yield int(bound.getsockname()[1])


def _head_command(temp_dir: Path, ports: dict[str, int]) -> list[str]:
    flags = {
        "port": ports["gcs"],
        "temp-dir": temp_dir,
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["dashboard_agent"],
        "metrics-export-port": ports["metrics"],
        "object-store-memory": OBJECT_STORE_BYTES,
        # Random worker ports: the default range would be shared with every other cluster on this machine.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "ray-client-server-port": ports["client"],
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats", *given]


def _head_environment(temp_dir: Path, *, token_path: Path, ports: dict[str, int]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    python_path = [*search_path(), *filter(None, [inherited.get("PYTHONPATH")])]
    haproxy = temp_dir / "haproxy"
    haproxy.mkdir()
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(python_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Four times the throughput of the default proxy, at a tenth of its CPU time.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Serve's own errors, such as a full queue, as problem+json.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.serve_errors:middlewares",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # The defaults are the same paths and ports for all clusters on a machine.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["fallback_http"]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["fallback_grpc"]),
        # These two pages are read-only; Ray binds them to all interfaces regardless of its settings.
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),
    }


def _wait_for_head(process: subprocess.Popen[bytes], info: ClusterInfo, log_path: Path) -> str:
    """The cluster's address, once its dashboard responds."""
    address_file = Path(info.temp_dir) / "ray_current_cluster"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if address_file.is_file() and _responds(f"{info.dashboard_url}/api/version", headers(info)):
            return address_file.read_text(encoding="utf-8").strip()
        time.sleep(0.2)
    tail = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise Failure(
        f"the local Ray cluster did not start (waited up to {START_TIMEOUT_S:.0f} s); the end of {log_path}:\n{tail}"
    )


def _responds(url: str, request_headers: dict[str, str]) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=request_headers), timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
