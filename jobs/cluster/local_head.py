"""The local Ray cluster of a store: a background process that outlives its starter, and how to stop it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.cli.context import Failure, Store, log
from jobs.cluster import private
from jobs.cluster.drain import DRAIN_TIMEOUT_S
from jobs.cluster.head_environment import SERVE_PORTS, haproxy_binary, head_environment
from jobs.cluster.keeper import RAY
from jobs.cluster.ports import ports_for_servers
from jobs.cluster.processes import created_s, end_members, end_tree, running_process
from models.files import create_text, write_text

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
KEEPER_TIMEOUT_S = DRAIN_TIMEOUT_S + STOP_TIMEOUT_S
"""For the keeper to answer the requests under way and to end everything."""
OBJECT_STORE_BYTES = 1024**3
"""Models and batches are small; Ray's default of 30 % of the memory would be missing for training."""
PREFERRED_DASHBOARD_PORT = 8265
RAY_PORTS = ("gcs", "client", "metrics", "dashboard_agent")


@dataclass(frozen=True)
class ClusterInfo:
    """The local cluster as recorded in cluster.json."""

    address: str
    """host:port of Ray's GCS."""
    dashboard_url: str
    pid: int
    """The keeper, which is the root of the cluster's process tree."""
    started_s: float
    """Creation time of that process in epoch seconds; tells it from a later process with the same pid."""
    temp_dir: str
    """The cluster's private directory. Its processes carry it in their environment, so that they are found if the
    keeper was killed."""
    token_path: str
    ports: dict[str, int]
    store: list[int] | None = None
    """Identity of the store's directory; unknown if 0.2.0 or an earlier release started it."""


def running_head(store: Store) -> ClusterInfo | None:
    """The running local cluster of a store, or None; that of a store of which this one is a copy does not count."""
    info = _recorded(store)
    if info is None:
        return None
    if not Path(info.token_path).is_file():  # in the store, where it was before
        info = dataclasses.replace(info, token_path=str(token_file(store)))
    return info if running_process(info.pid, info.started_s) is not None else None


def start_head(store: Store) -> ClusterInfo:
    """Start a local cluster that outlives this process, or return the running one; raises Failure."""
    token = token_file(store).read_text(encoding="utf-8")
    with _one_at_a_time(store):
        running = running_head(store)
        if running:
            return running
        _end_dead(store)
        info = _started(store, token)
        write_text(_record(store), json.dumps(dataclasses.asdict(info), indent=1), mode=0o600)
    return info


def stop_head(store: Store) -> bool:
    """Stop the local cluster of a store, or what is left of one that died; returns whether anything was running.

    Requests under way are answered first.
    """
    if not _record(store).is_file():
        return False
    with _one_at_a_time(store):
        info = running_head(store)
        if info:
            end_tree(info.pid, timeout_s=KEEPER_TIMEOUT_S)
        num_left = _end_dead(store)
        _record(store).unlink(missing_ok=True)
    return info is not None or num_left > 0


def end_dead_head(store: Store) -> None:
    """End what is left of a cluster that died, such as an HAProxy that holds the port; a running one stays."""
    if _recorded(store) is None or running_head(store) is not None:
        return
    with _one_at_a_time(store):
        if running_head(store) is None:
            _end_dead(store)


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


def _record(store: Store) -> Path:
    return store.cluster / "cluster.json"


def _recorded(store: Store) -> ClusterInfo | None:
    """The store's cluster as it was started last, whether or not it still runs."""
    if not _record(store).is_file():
        return None
    try:
        info = ClusterInfo(**json.loads(_record(store).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        log.warning("ignoring %s, which is damaged", _record(store))
        return None
    return info if info.store in (None, identity(store)) else None


@contextmanager
def _one_at_a_time(store: Store) -> Iterator[None]:
    """Verbs of one store start and stop its cluster one after the other."""
    store.cluster.mkdir(parents=True, exist_ok=True)
    with (store.cluster / "start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_dead(store: Store) -> int:
    """End the processes that the recorded cluster left behind and remove its directory; returns how many there were."""
    info = _recorded(store)
    if info is None:
        return 0
    directory = Path(info.temp_dir)
    num_ended = end_members(directory, timeout_s=STOP_TIMEOUT_S)
    if num_ended:
        log.warning("ended %d processes that a cluster of this store had left behind", num_ended)
    private.remove(directory)
    return num_ended


def _started(store: Store, token: str) -> ClusterInfo:
    ports, log_path = _free_ports(), store.cluster / "head.log"
    with ExitStack() as undo:
        private_directory = private.create()
        directory = private_directory.path
        undo.callback(private.remove, directory)
        token_path = directory / "token"  # not in the store, which may be moved while workers are started
        create_text(token_path, token, mode=0o600)
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cluster.keeper", directory, haproxy_binary(), *_ray(directory, ports)],
                env=head_environment(store.root, directory, ports=ports),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[private_directory.lock],
            )
        private_directory.release()
        undo.callback(end_members, directory, timeout_s=STOP_TIMEOUT_S)
        undo.callback(end_tree, process.pid, timeout_s=STOP_TIMEOUT_S)
        info = ClusterInfo(
            address="",
            dashboard_url=f"http://127.0.0.1:{ports['dashboard']}",
            pid=process.pid,
            started_s=created_s(process.pid),
            temp_dir=str(directory),
            token_path=str(token_path),
            ports=ports,
            store=identity(store),
        )
        info = dataclasses.replace(info, address=_wait_for_head(process, info, log_path))
        undo.pop_all()
    return info


def _free_ports() -> dict[str, int]:
    dashboard, *others = ports_for_servers([PREFERRED_DASHBOARD_PORT], len(RAY_PORTS + SERVE_PORTS))
    return {"dashboard": dashboard, **dict(zip(RAY_PORTS + SERVE_PORTS, others, strict=True))}


def _ray(directory: Path, ports: dict[str, int]) -> list[str]:
    """The command that starts Ray."""
    flags = {
        "port": ports["gcs"],
        "temp-dir": directory / RAY,
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


def _wait_for_head(process: subprocess.Popen[bytes], info: ClusterInfo, log_path: Path) -> str:
    """The cluster's address, once its dashboard responds."""
    address_file = Path(info.temp_dir) / RAY / "ray_current_cluster"
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
