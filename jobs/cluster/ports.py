"""Free TCP ports of this machine."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

from jobs.cli.context import Failure

EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_PORT, FIRST_EPHEMERAL = 10_000, 32_768


def free_port(preferred: int = 0) -> int:
    """The preferred port on loopback if it is free, else any free one; raises Failure if there is none."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as bound:
            bound.bind(("127.0.0.1", port))
            return int(bound.getsockname()[1])
    raise _none_left()


def ports_for_servers(preferred: Iterable[int], number: int) -> list[int]:
    """The preferred ports that are free, replaced by others if not, and `number` more; free on all interfaces.

    The others are outside the range from which the system takes the ports of outgoing connections: such a connection,
    of which Ray has hundreds, would keep a server that starts later, or again, from its port.
    """
    with contextlib.ExitStack() as held:
        others = _bound_ports(held)
        try:
            first = [port if _is_bound(port, held) else next(others) for port in preferred]
            return [*first, *islice(others, number)]
        except StopIteration:
            raise _none_left() from None


def _bound_ports(held: contextlib.ExitStack) -> Iterator[int]:
    outside = list(range(FIRST_PORT, _first_ephemeral()))
    random.shuffle(outside)
    for port in chain(outside, repeat(0, len(outside) + 1000)):  # any, where none is left outside
        if found := _is_bound(port, held):
            yield found


def _is_bound(port: int, held: contextlib.ExitStack) -> int:
    """The port that is bound until the stack is left; 0 if it is taken."""
    bound = held.enter_context(socket.socket())
    try:
        bound.bind(("", port))
    except OSError:
        return 0
    return int(bound.getsockname()[1])


def _first_ephemeral() -> int:
    try:
        return int(EPHEMERAL_RANGE.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return FIRST_EPHEMERAL


def _none_left() -> Failure:
    return Failure("no port of this machine is free; stop some of the processes that use them")
