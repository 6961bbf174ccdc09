"""The keeper of a cluster: whatever dies, no process and no file is left, and a dead HAProxy is replaced at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.cluster import private
from jobs.cluster.haproxy import RECORD, SUBSTITUTE
from jobs.cluster.head_environment import haproxy_binary
from jobs.cluster.keeper import HAPROXY
from jobs.cluster.ports import free_port
from jobs.cluster.processes import DIRECTORY_VARIABLE, STORE_VARIABLE, created_s, end_members, members, running_process
from tests.kit.polling import until
from tests.kit.proxy import NAME, render, wrapper

ORPHAN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('started', flush=True); signal.pause()"
RAY = f"""
import os, subprocess, sys, signal
orphan = subprocess.Popen([sys.executable, "-c", {ORPHAN!r}], start_new_session=True)
print(os.getpid(), orphan.pid, flush=True)
signal.pause()
"""
"""In place of Ray: starts a process that outlives it and its signals, as HAProxy does."""
RAY_WITH_HAPROXY = f"""
import os, subprocess, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
subprocess.run([*sys.argv[2:], "-db", "-f", os.environ["{DIRECTORY_VARIABLE}"] + "/{HAPROXY}/node/{NAME}"])
"""
"""In place of Ray: starts HAProxy once a file exists."""
TIMEOUT_S = 60.0


@contextmanager
def cluster(*command: str | Path, haproxy: str = "") -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A keeper of a command in place of Ray, and its directory."""
    made = private.create()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cluster.keeper", made.path, haproxy, *command],
        env={**os.environ, STORE_VARIABLE: "a store", DIRECTORY_VARIABLE: str(made.path)},
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[made.lock],
    )
    made.release()
    try:
        yield process, made.path
    finally:
        process.kill()
        process.wait()
        end_members(made.path, timeout_s=5.0)  # they have its stdout too
        process.communicate()
        private.remove(made.path)


def pids_of(keeper: subprocess.Popen[str]) -> tuple[int, int]:
    """Of the command and of its orphan, once both have started."""
    assert keeper.stdout is not None
    words: list[str] = []
    while len(words) < 3:
        words += keeper.stdout.readline().split()
    ray, orphan = sorted(int(word) for word in words if word.isdigit())
    return ray, orphan


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGKILL, 1), (signal.SIGTERM, 0)])
def test_nothing_is_left_after_ray_died_or_the_keeper_was_stopped(number: signal.Signals, exit_code: int) -> None:
    with cluster(sys.executable, "-uc", RAY) as (keeper, directory):
        ray, orphan = pids_of(keeper)
        ages = {pid: created_s(pid) for pid in (ray, orphan)}

        os.kill(ray if number == signal.SIGKILL else keeper.pid, number)

        assert keeper.wait(TIMEOUT_S) == exit_code
        assert not any(running_process(pid, started_s) for pid, started_s in ages.items())
        assert not directory.exists()


def test_after_the_keeper_was_killed_its_processes_are_found_by_their_directory() -> None:
    with cluster(sys.executable, "-uc", RAY) as (keeper, directory):
        ray, orphan = pids_of(keeper)
        age = created_s(orphan)
        keeper.kill()
        keeper.wait()

        assert orphan in {process.pid for process in members(directory)}
        assert not members(directory.with_name("shop-other"))
        assert end_members(directory, timeout_s=1.0) >= 1
        assert running_process(orphan, age) is None
        assert running_process(ray, age) is None, "the kernel ends it with the keeper"


@pytest.mark.skipif(not haproxy_binary(), reason="there is no HAProxy for this system")
def test_a_killed_haproxy_is_replaced_at_once_until_ray_starts_another() -> None:
    port = free_port()
    with cluster(sys.executable, "-c", "import signal; signal.pause()", haproxy=haproxy_binary()) as (_, directory):
        node = directory / HAPROXY / "node"
        node.mkdir(parents=True)
        render(node, port=port, replica_port=free_port())
        with started(node) as first:
            until(lambda: listens(port) and int((node / RECORD).read_text()) == first.pid)
            first.kill()
        record = node / f"{SUBSTITUTE}.pid"
        until(lambda: listens(port) and record.exists() and record.read_text() != "")
        substitute = int(record.read_text())
        age = created_s(substitute)
        # One that was killed early may not have made its socket yet.
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)), socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(node / "admin.sock"))  # so that Ray sees that its HAProxy is dead

        with started(node) as second:
            until(lambda: running_process(substitute, age) is None)
            assert listens(port)
            second.kill()


@pytest.mark.skipif(not haproxy_binary(), reason="there is no HAProxy for this system")
def test_a_keeper_that_is_stopped_lets_requests_under_way_end(tmp_path: Path) -> None:
    port, ready = free_port(), tmp_path / "ready"
    command: list[str | Path] = [sys.executable, "-c", RAY_WITH_HAPROXY, ready, *wrapper(haproxy_binary())]
    with slow_replica() as (replica, has_begun, may_answer), cluster(*command) as (keeper, directory):
        node = directory / HAPROXY / "node"
        node.mkdir(parents=True)
        render(node, port=port, replica_port=replica.server_port)
        ready.touch()
        until(lambda: listens(port))
        with ThreadPoolExecutor() as client:
            answer = client.submit(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/slow", timeout=TIMEOUT_S))
            assert has_begun.wait(TIMEOUT_S)
            keeper.terminate()
            until(lambda: not listens(port))
            may_answer.set()

            assert answer.result().status == 200
        assert keeper.wait(TIMEOUT_S) == 0


@contextmanager
def slow_replica() -> Iterator[tuple[ThreadingHTTPServer, threading.Event, threading.Event]]:
    """A server, whether a request for /slow has begun, and whether it may be answered."""
    has_begun, may_answer = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow":
                has_begun.set()
                may_answer.wait(TIMEOUT_S)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server, has_begun, may_answer
        finally:
            may_answer.set()
            server.shutdown()


def started(node: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(wrapper(haproxy_binary(), "-db", "-f", str(node / NAME)), stderr=subprocess.DEVNULL)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S):
        return True
    return False
