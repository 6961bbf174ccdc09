"""cluster.yaml's node types on this machine: Ray's first autoscaler starts a raylet for each node, from none."""

from __future__ import annotations

import importlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from jobs.cluster import private
from jobs.cluster.head_environment import head_environment
from jobs.cluster.ports import free_port
from jobs.cluster.processes import DIRECTORY_VARIABLE, end_members, members
from tests.conftest import CHECKOUT
from tests.kit.polling import until

HEAD_TYPE = "ray.head.default"
"""What the fake provider calls the type of the head, whatever the file says."""
HEAD_IDS = [f"{'f' * 50}{start}00000" for start in range(10)]
"""Ids of a head's node, for each time that it starts: Ray takes no id twice."""
START_S, STOP_S = 120.0, 20.0


class FakeCluster:
    """A head without CPUs and the nodes that its autoscaler starts; every process can be found by its environment."""

    def __init__(self, directory: Path, config: Mapping[str, Any], *, redis_port: int | None = None) -> None:
        self.directory = directory
        self.token = directory / "token"
        self._config, self._redis_port = config, redis_port
        self._ports = {name: free_port() for name in ("gcs", "dashboard", "client", "agent")}
        self._environment: dict[str, str] = {}
        self._head_id = HEAD_IDS[0]

    @property
    def address(self) -> str:
        """host:port of the GCS."""
        return f"{_own_address()}:{self._ports['gcs']}"

    @property
    def dashboard_url(self) -> str:
        """Where jobs are submitted to."""
        return f"http://127.0.0.1:{self._ports['dashboard']}"

    def environment(self) -> dict[str, str]:
        """What a client needs, in addition to its own environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self) -> None:
        """Start the head, or start it again at the same ports; its log is ray.log."""
        if not self.token.exists():
            self.token.write_text(secrets.token_hex(32), encoding="utf-8")
            self.token.chmod(0o600)
        file = self.directory / "cluster.yaml"
        file.write_text(
            yaml.safe_dump(fake_config(self._config, self.address, folder=str(self.directory), head_id=self._head_id)),
            encoding="utf-8",
        )
        self._environment = self._environment or self._head_environment()
        self._environment["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = self._head_id
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0"]
        command += [f"--port={self._ports['gcs']}", f"--dashboard-port={self._ports['dashboard']}"]
        command += [f"--ray-client-server-port={self._ports['client']}", "--dashboard-host=127.0.0.1"]
        command += [f"--autoscaling-config={file}", f"--temp-dir={self.directory / 'r'}"]
        command += [f"--dashboard-agent-listen-port={self._ports['agent']}"]
        command += ["--object-store-memory=200000000", "--disable-usage-stats"]
        with (self.directory / "ray.log").open("wb") as log:
            self._head = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(self._responds, within_s=START_S)
        except AssertionError:
            said = (self.directory / "ray.log").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"the head did not start\n{said[:2000]}\n...\n{said[-2000:]}") from None

    def stop(self) -> None:
        """End every process of the cluster."""
        end_members(self.directory, timeout_s=STOP_S)

    def raylets(self) -> dict[str, Any]:
        """The process of each live node but the head, by node id."""
        import ray  # which brings psutil along

        assert ray
        gone = importlib.import_module("psutil").Error
        found = {}
        for process in members(self.directory):
            try:
                if process.name() == "raylet":
                    found[process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING", self._head_id)] = process
            except gone:
                continue
        return {node_id: process for node_id, process in found.items() if node_id not in HEAD_IDS}

    def kill_node(self, node_id: str) -> None:
        """SIGKILL to a raylet; its workers end when they miss it."""
        self.raylets()[node_id].kill()

    def _head_environment(self) -> dict[str, str]:
        ports = {name: free_port() for name in ("haproxy_stats", "haproxy_metrics", "fallback_http", "fallback_grpc")}
        environment = head_environment(self.directory, self.directory, ports=ports) | self.environment()
        if self._redis_port is not None:
            environment |= {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis_port}"}
        environment |= {"RAY_enable_autoscaler_v2": "0"}
        environment |= {DIRECTORY_VARIABLE: str(self.directory)}
        return environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def kill_gcs(self) -> None:
        """SIGKILL to the head's control service; the rest of the head ends when it misses it."""
        for process in members(self.directory):
            if process.name() == "gcs_server":
                process.kill()
        self._head.wait(timeout=START_S)
        self._head_id = HEAD_IDS[HEAD_IDS.index(self._head_id) + 1]
        # `ray start` takes raylets that are left for a head; that of a machine has no such file when it starts again.
        (self.directory / "r" / "ray_current_cluster").unlink(missing_ok=True)

    def _responds(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._ports["dashboard"]), timeout=1).close()
            socket.create_connection((_own_address(), self._ports["gcs"]), timeout=1).close()
        except OSError:
            return False
        return True


def fake_config(config: Mapping[str, Any], gcs_address: str, *, folder: str, head_id: str) -> dict[str, Any]:
    """A cluster file with the node types of another, whose nodes are processes with folders in `folder`."""
    head = config["head_node_type"]
    types = {
        HEAD_TYPE if name == head else name: {
            "resources": node_type["resources"],
            "node_config": {},
            "min_workers": node_type.get("min_workers", 0),
            "max_workers": node_type.get("max_workers", 0),
        }
        for name, node_type in config["available_node_types"].items()
    }
    commands = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
    nothing: list[str] = []
    return {
        "cluster_name": "fake",
        "max_workers": config["max_workers"],
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": config["idle_timeout_minutes"],
        "provider": {
            "type": "external",
            "module": "tests.kit.fake_nodes.FakeNodes",
            "folder": folder,
            "head_node_id": head_id,
            "gcs_address": gcs_address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            # There is nothing to install on a node.
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        **{"file_mounts": {}, "file_mounts_sync_continuously": False, "no_restart": False},
        **dict.fromkeys(("cluster_synced_files", "rsync_exclude", "rsync_filter"), nothing),
        **{f"{name}_commands": nothing for name in commands},
    }


def shipped_config(*, cpus: float) -> dict[str, Any]:
    """cluster.yaml, with up to `cpus` CPUs in each node."""
    config: dict[str, Any] = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text(encoding="utf-8"))
    for node_type in config["available_node_types"].values():
        if node_type["resources"].get("CPU"):
            node_type["resources"]["CPU"] = min(cpus, node_type["resources"]["CPU"])
    return config


@contextmanager
def fake_cluster(config: Mapping[str, Any], *, redis_port: int | None = None) -> Iterator[FakeCluster]:
    """A started cluster in a private directory with a short path, stopped at the end.

    With a Redis server on this machine its control service keeps its state there.
    """
    directory = private.create()
    cluster = FakeCluster(directory.path, config, redis_port=redis_port)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        directory.remove()


def _own_address() -> str:
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
