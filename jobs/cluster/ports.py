"""Free TCP ports of this machine."""

from __future__ import annotations

import contextlib
import socket

from jobs.cli.context import Failure


def free_port(preferred: int = 0) -> int:
    """The preferred port on loopback if it is free, else any free one; raises Failure if there is none."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as bound:
            bound.bind(("127.0.0.1", port))
            return int(bound.getsockname()[1])
    raise Failure("no port of this machine is free; stop some of the processes that use them")
