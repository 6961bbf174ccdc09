"""Background processes, and restoring signal handlers that Ray replaces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.cli.signals import sigint_restored
from jobs.cluster.processes import created_s, end_tree, running_process

WAITS = "import sys; sys.stdin.read()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); {WAITS}"
WITH_STUBBORN_CHILD = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
{WAITS}
"""


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_process_is_stopped_with_its_children_even_if_they_ignore_sigterm() -> None:
    with started(WITH_STUBBORN_CHILD) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        ages = {pid: created_s(pid) for pid in (process.pid, child)}
        assert all(running_process(pid, started_s) is not None for pid, started_s in ages.items())

        end_tree(process.pid, timeout_s=10.0)

        assert not any(running_process(pid, started_s) is not None for pid, started_s in ages.items())


def test_an_ended_process_or_a_reused_pid_is_not_the_recorded_process() -> None:
    with started(WAITS) as process:
        started_s = created_s(process.pid)
        assert running_process(process.pid, started_s - 60) is None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert running_process(process.pid, started_s) is None, "a zombie is not a running process"
    assert running_process(process.pid, started_s) is None
    end_tree(process.pid, timeout_s=1.0)


def test_a_replaced_sigint_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(ValueError, match="training failed"), sigint_restored() as is_in_place:
        seen = [is_in_place()]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        seen.append(is_in_place())
        raise ValueError("training failed")

    assert seen == [True, False]
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_the_handler_is_left_alone() -> None:
    def use() -> bool:
        with sigint_restored() as is_in_place:
            return is_in_place()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() is False
