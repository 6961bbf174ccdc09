"""The port of an endpoint: who holds it is said, and two deployments never share it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.cli.context import Store, UsageFailure
from jobs.cluster.ports import free_port
from jobs.cluster.processes import STORE_VARIABLE
from jobs.serving.port import check_is_free, reserved

LISTEN = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
sys.stdout.write(f"{listening.getsockname()[1]}\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_a_taken_port_is_refused_with_the_process_and_the_store_that_hold_it(tmp_path: Path) -> None:
    environment = {**os.environ, STORE_VARIABLE: str(tmp_path / "other")}
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(UsageFailure) as failure:
            check_is_free("127.0.0.1", port)
        holder.communicate("")

    assert f"--port {port} cannot be used (Address already in use; python" in str(failure.value)
    assert f"(process {holder.pid}, of the store {tmp_path / 'other'}) listens there); choose another port" in str(
        failure.value
    )


def test_a_port_that_is_only_shared_by_reuse_counts_as_taken() -> None:
    with socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(("127.0.0.1", 0))
        shared.listen()
        with pytest.raises(UsageFailure, match="Address already in use"):
            check_is_free("127.0.0.1", shared.getsockname()[1])


def test_a_deployment_of_another_store_to_a_port_in_deployment_is_refused(tmp_path: Path) -> None:
    port = free_port()
    first, second = Store(tmp_path / "first"), Store(tmp_path / "second")

    with (
        reserved(first, port),
        pytest.raises(UsageFailure, match=rf"--port {port} is being deployed to by process {os.getpid()}") as failure,
        reserved(second, port),
    ):
        pass

    assert f"for the store {first.root}; choose another port" in str(failure.value)
    with reserved(second, port):  # after the first one
        pass


def test_a_second_deployment_of_the_same_store_waits_for_the_first(tmp_path: Path) -> None:
    store, port = Store(tmp_path / "store"), free_port()
    order: list[str] = []
    is_waiting = threading.Event()

    def second() -> None:
        is_waiting.set()
        with reserved(store, port):
            order.append("second")

    with reserved(store, port):
        thread = threading.Thread(target=second)
        thread.start()
        is_waiting.wait()
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
