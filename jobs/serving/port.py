"""The port of an endpoint on this machine: free, or held by which process; one deployment at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from jobs.cli.context import Failure, Store, UsageFailure, log
from jobs.cluster.local_head import end_dead_head, running_head
from jobs.cluster.private import DirectoryRefused, user_directory
from jobs.cluster.processes import listener

ALL_INTERFACES = ("0.0.0.0", "::")


@contextmanager
def reserved(store: Store, port: int) -> Iterator[None]:
    """Keep other deployments of this user off a port until the block ends.

    Serve's proxy sets SO_REUSEPORT, so two that start at once would share the port and mix their answers. Another
    deployment of the same store is waited for; raises UsageFailure for one of another store.
    """
    try:
        path = user_directory() / f"port-{port}.lock"  # where nobody else can put a link to a file of this user
    except DirectoryRefused as error:
        raise Failure(str(error)) from error
    with path.open("a+", encoding="utf-8") as lock:
        _acquire(lock, store, port)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n{store.root}")
        lock.flush()
        yield


def check_can_start(store: Store, host: str, port: int) -> None:
    """Raise UsageFailure if the port is taken, before a cluster is started in vain; does nothing while one runs.

    What a dead cluster of the store left behind, such as an HAProxy that holds the port, is ended.
    """
    if running_head(store) is None:
        end_dead_head(store)
        check_is_free(host, port)


def local_url(host: str, port: int) -> str:
    """URL of an endpoint that listens on an address of this machine, or on all."""
    return f"http://{'127.0.0.1' if host in ALL_INTERFACES else host}:{port}"


def check_is_free(host: str, port: int) -> None:
    """Raise UsageFailure, with the process that holds it, if a port cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = listener(port)
            held = f"{error.strerror}; {holder} listens there" if holder else f"{error.strerror}"
            raise UsageFailure(f"--host {host} --port {port} cannot be used ({held}); choose another port") from None


def _acquire(lock: TextIO, store: Store, port: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid, _, root = lock.read().partition("\n")
        if root != str(store.root):
            raise UsageFailure(
                f"--port {port} is being deployed to by process {pid or 'unknown'} for the store {root or 'unknown'}; "
                "choose another port"
            ) from None
        log.info("waiting for another deployment of this store, process %s", pid)
        fcntl.flock(lock, fcntl.LOCK_EX)
