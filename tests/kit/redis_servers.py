"""Redis servers of their own for tests: on a free port of this machine, with a directory of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
START_TIMEOUT_S = 30.0


@dataclass
class RedisServer:
    """A server process that can be killed and started again with its data."""

    port: int
    command: list[str]
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start again, and wait until it answers."""
        self.process = _started(self.command, self.port)


@contextmanager
def redis_server(directory: Path, **settings: str) -> Iterator[RedisServer]:
    """A server with these settings, or durable; skips the test where redis-server is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"bind": "127.0.0.1", "dir": str(directory), "save": "", "port": str(port), **DURABLE, **settings}
    command = [binary, *(word for name, value in own.items() for word in (f"--{name}", *(value.split() or [""])))]
    server = RedisServer(port, command, _started(command, port))
    try:
        yield server
    finally:
        server.kill()


def _started(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # One that needs a password answers with an error; one that loads its data says so.
                if not connection.recv(64).startswith(b"-LOADING"):
                    return process
        except OSError:
            time.sleep(0.01)
    process.kill()
    raise AssertionError(f"redis-server did not start: {command}")
