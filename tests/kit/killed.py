"""Runs something in a child process that is killed with SIGKILL at its nth access to a file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.link", "ctypes.call_function")
"""Audit events (PEP 578) of what changes files, and of the call that exchanges two directories."""


def is_killed_at(step: int, action: Callable[[], object]) -> bool:
    """Whether the child was killed at that access, from 1; False if the action has fewer. It must not fail."""
    child = os.fork()
    if child == 0:
        _die_at(step)
        try:
            action()
        except BaseException:  # noqa: BLE001  a child of a test must not go on with the test
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the action failed by itself"
    return False


def _die_at(step: int) -> None:
    seen = 0

    def watch(event: str, _: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
