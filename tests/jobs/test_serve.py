"""The foreground service of a store, and an endpoint whose cluster is killed: private, brought back, nothing left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs import deploy, serve, stop
from jobs.cli.context import Context, Failure, Store, UsageFailure
from jobs.cluster.haproxy import RECORD
from jobs.cluster.local_head import running_head, stop_head
from jobs.cluster.ports import free_port
from jobs.cluster.processes import members
from jobs.serving.api import read_json
from jobs.serving.foreground import alone, end_foreground
from tests.kit.other_user import as_other_user, needs_other_user
from tests.kit.polling import until
from tests.kit.shop import SHOP, prepare_shop, write_model

TIMEOUT_S = 120.0
HOLDS_THE_STORE = """
import sys
from pathlib import Path
from jobs.cli.context import Store
from jobs.serving.foreground import alone
with alone(Store(Path(sys.argv[1]))):
    print("holds", flush=True)
    sys.stdin.read()
"""
NICENESS_OF_A_TASK = """
import os, sys
from pathlib import Path
import ray
from jobs.cli.context import Context, Store
from jobs.cluster.connection import connect

connect(Context(store=Store(Path(sys.argv[1]))))
print(ray.get(ray.remote(lambda: os.getpriority(os.PRIO_PROCESS, 0)).remote()))
"""
CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for path in sys.argv[1:]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        continue
    except OSError as error:
        sys.exit(f"{path}: {error}")
    sys.exit(f"{path} is open")
"""
"""By itself, since another user may not be able to start this Python."""


# Without a cluster


def test_a_store_without_a_deployment_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match=r"nothing is deployed in .*`shopkeeper deploy FAMILY --store"):
        serve.run(Context(store=Store(tmp_path)), None, serve.Options(), None)


def test_a_cluster_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="works on this machine only"):
        serve.run(Context(store=Store(tmp_path), address="ray://host:1"), None, serve.Options(), None)


def test_a_second_process_for_a_store_is_refused_and_stop_ends_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    command = [sys.executable, "-c", HOLDS_THE_STORE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "holds\n"

        with pytest.raises(UsageFailure, match=f"process {first.pid} serves the store"), alone(store):
            pass
        outcome = stop.run(Context(store=store), None, stop.Options(), None)

        assert first.poll() is not None
    assert outcome.status == "stopped"
    assert end_foreground(store) is False
    with alone(store):
        pass


def test_the_first_failure_is_reported_and_later_ones_are_retried_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Any] = ["up", Failure("no port"), Failure("no port"), KeyboardInterrupt()]
    pauses: list[float] = []

    def bring_up(context: Context, timeout_s: float) -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return "http://127.0.0.1:1"

    monkeypatch.setattr(serve, "_bring_up", bring_up)
    monkeypatch.setattr(serve, "_until_down", lambda context, url: "the local cluster has died")
    monkeypatch.setattr(time, "sleep", pauses.append)
    context = Context(store=Store(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        serve._keep_up(context, 1.0)
    assert pauses == [0.0, 1.0, 2.0]
    outcomes.append(Failure("no port"))
    with pytest.raises(Failure, match="no port"):
        serve._keep_up(context, 1.0)


# On one cluster, in this order


@dataclasses.dataclass
class Shop:
    """A deployed shop."""

    context: Context
    model: Path
    port: int

    def deploy(self) -> None:
        deploy.run(self.context, SHOP, deploy.Options(model=str(self.model), port=self.port), None)

    def answers(self) -> bool:
        with suppress(OSError, Failure):
            return bool(read_json(f"http://127.0.0.1:{self.port}/v1/models")["version"])
        return False

    @property
    def directory(self) -> Path:
        info = running_head(self.context.store)
        assert info is not None
        return Path(info.temp_dir)

    def proxy(self) -> Any:
        """The newest HAProxy; those before a reload may be about to end."""
        (record,) = self.directory.rglob(RECORD)
        pid = int(record.read_text())
        return next(process for process in self.processes("haproxy") if process.pid == pid)

    def processes(self, name: str) -> list[Any]:
        return [process for process in members(self.directory) if process.name().startswith(name)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("served")
    store = Store(directory / "store")
    write_model(SHOP, prepare_shop(store), directory / "v1", network="transitions")
    deployed = Shop(Context(store=store), directory / "v1", free_port())
    deployed.deploy()
    yield deployed
    stop_head(store)


@pytest.mark.ray
@needs_other_user
def test_another_user_reaches_no_socket_and_no_file_of_the_endpoint(shop: Shop) -> None:
    paths = list(shop.directory.rglob("*"))
    sockets = [path for path in paths if path.is_socket()]

    assert {"admin.sock", "raylet", "plasma_store"} <= {path.name for path in sockets}
    tried = subprocess.run([sys.executable, "-c", CONNECT, *sockets], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    for name in ("haproxy.cfg", "token", "start"):
        (path,) = [path for path in paths if path.name == name]
        assert as_other_user("cat", path).returncode != 0, path


@pytest.mark.ray
def test_haproxy_listens_beyond_loopback_nowhere_and_its_socket_is_for_the_owner(shop: Shop) -> None:
    proxy = shop.proxy()
    listening = [found for found in proxy.net_connections("tcp") if found.status == "LISTEN"]

    assert {found.laddr.ip for found in listening} == {"127.0.0.1"}
    assert shop.port in {found.laddr.port for found in listening}
    (admin,) = shop.directory.rglob("admin.sock")
    assert oct(admin.stat().st_mode)[-3:] == "600"


@pytest.mark.ray
def test_the_endpoint_goes_before_the_tasks_of_trainings_on_the_same_cluster(shop: Shop) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def runs_at_the_usual_priority() -> bool:
        with suppress(ProcessLookupError, StopIteration):  # HAProxy is being reloaded
            pids = [shop.proxy().pid, *(replica.pid for replica in shop.processes("ray::ServeReplica"))]
            return len(pids) > 1 and {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {usual}
        return False

    command = [sys.executable, "-c", NICENESS_OF_A_TASK, str(shop.context.store.root)]
    task = subprocess.run(command, capture_output=True, text=True, check=False)

    until(runs_at_the_usual_priority)
    assert task.stdout == "15\n", task.stderr


@pytest.mark.ray
def test_after_the_control_service_was_killed_deploy_works_again(shop: Shop) -> None:
    former = shop.directory
    (control_service,) = shop.processes("gcs_server")
    control_service.kill()
    until(lambda: running_head(shop.context.store) is None)

    shop.deploy()

    assert shop.answers()
    assert not former.exists()
    assert not members(former)


@pytest.mark.ray
def test_serve_brings_a_killed_cluster_back_and_leaves_nothing_when_it_ends(shop: Shop) -> None:
    command = [sys.executable, "-m", "jobs", "serve", "--store", str(shop.context.store.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        while "is up" not in served.stderr.readline():
            assert served.poll() is None
        info = running_head(shop.context.store)
        assert info is not None
        os.kill(info.pid, signal.SIGKILL)

        while "is up" not in served.stderr.readline():
            assert served.poll() is None
        assert shop.answers()
        directory = shop.directory
        served.terminate()
        assert served.wait(TIMEOUT_S) == 0

    assert running_head(shop.context.store) is None
    for path in (directory, Path(info.temp_dir)):
        assert not path.exists()
        assert not members(path)


@pytest.mark.ray
def test_stop_ends_what_a_killed_cluster_left_behind(shop: Shop) -> None:
    shop.deploy()
    directory = shop.directory
    proxy = shop.proxy()
    proxy.suspend()  # so that it survives until `stop`
    info = running_head(shop.context.store)
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    until(lambda: running_head(shop.context.store) is None)

    outcome = stop.run(shop.context, None, stop.Options(), None)

    assert outcome.status == "stopped"
    assert not members(directory)
    assert not directory.exists()
