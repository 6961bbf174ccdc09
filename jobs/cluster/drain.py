"""Ends the traffic of a local cluster without cutting a request: nothing new is accepted, what is under way ends."""

from __future__ import annotations

import csv
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

from jobs.cli.context import log
from jobs.cluster.processes import descendants

DRAIN_TIMEOUT_S = 30.0
"""How long requests under way may take; longer ones, such as open WebSockets, are cut then."""
POLL_S = 0.1
NUM_IDLE_POLLS = 3
"""Polls in a row without a request under way, after which the connections that are left are idle ones."""
SOCKET_TIMEOUT_S = 2.0


def drain(pid: int, *, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
    """Let the proxies in a process tree finish; returns whether they did, or some were still at work at the limit.

    SIGUSR1 makes HAProxy close its listeners, answer what it has accepted and close each connection after its answer.
    It ends by itself when no connection is left; one that clients keep open and idle is not waited for. Its admin
    socket accepts nothing any more then, so it is opened before.
    """
    deadline_s = time.monotonic() + timeout_s
    with ExitStack() as opened:
        known: set[int] = set()
        proxies = _finishing(pid, known, opened)
        num_idle_polls = 0
        while proxies and num_idle_polls < NUM_IDLE_POLLS:
            if time.monotonic() > deadline_s:
                log.warning("requests were still under way after %.0f s, and are cut now", timeout_s)
                return False
            time.sleep(POLL_S)
            # Ray starts another proxy within seconds.
            proxies = [proxy for proxy in (*proxies, *_finishing(pid, known, opened)) if proxy.is_running()]
            num_idle_polls = num_idle_polls + 1 if all(proxy.is_idle() for proxy in proxies) else 0
    return True


def _finishing(pid: int, known: set[int], opened: ExitStack) -> list[_Proxy]:
    """The proxies in a process tree that are not known yet, told to accept nothing more."""
    new = [process for process in descendants(pid, name="haproxy") if process.pid not in known]
    known.update(process.pid for process in new)
    proxies = [_Proxy(process, opened) for process in new]
    for proxy in proxies:
        proxy.finish()
    return proxies


class _Proxy:
    """A HAProxy process, and a connection to its admin socket if it listens on one."""

    def __init__(self, process: Any, opened: ExitStack) -> None:
        self._process = process
        self._admin: socket.socket | None = None
        with suppress(OSError):
            for path in _unix_listeners(process):
                admin = opened.enter_context(closing(socket.socket(socket.AF_UNIX)))
                admin.settimeout(SOCKET_TIMEOUT_S)
                admin.connect(path)
                admin.sendall(b"prompt\n")  # several commands on one connection
                _read_until_prompt(admin)
                self._admin = admin

    def finish(self) -> None:
        """Accept nothing more."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)

    def is_running(self) -> bool:
        """Whether the process exists."""
        return bool(self._process.is_running()) and self._process.status() != "zombie"

    def is_idle(self) -> bool:
        """Whether no request is under way; of a process that was replaced by a reload this is unknown until it ends."""
        if self._admin is None:
            return False
        try:
            self._admin.sendall(b"show stat\n")
            rows = csv.DictReader(_read_until_prompt(self._admin).lstrip("# ").splitlines())
            return sum(int(row["scur"] or 0) for row in rows if row["svname"] == "BACKEND") == 0
        except (OSError, KeyError, ValueError):
            return not self.is_running()


def _unix_listeners(process: Any) -> Iterator[str]:
    """Paths of the admin sockets of a process; its socket for metrics is one of datagrams."""
    for found in process.net_connections(kind="unix"):
        if found.type == socket.SOCK_STREAM and str(found.laddr).endswith("admin.sock"):
            yield str(found.laddr)


def _read_until_prompt(admin: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\n> "):
        part = admin.recv(65536)
        if not part:
            raise ConnectionResetError("the admin socket was closed")
        received += part
    return received.decode("utf-8", errors="replace").removesuffix("\n> ")
