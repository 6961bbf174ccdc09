"""Calls with a time limit: the caller stops waiting, and calls that never end do not use more threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from models.time_limit import Overdue, TimedThreads


def test_a_call_in_time_returns_its_value_or_raises_its_error() -> None:
    threads = TimedThreads(1)

    assert threads.call(lambda: 7, timeout_s=60) == 7
    with pytest.raises(ZeroDivisionError):
        threads.call(lambda: 1 // 0, timeout_s=60)
    assert not threads.are_all_stuck


def test_a_call_that_exits_raises_an_error_that_ends_neither_its_thread_nor_the_event_loop() -> None:
    threads = TimedThreads(1)

    with pytest.raises(RuntimeError, match="the call ended with SystemExit: 3"):
        threads.call(lambda: sys.exit(3), timeout_s=60)
    assert threads.call(lambda: 7, timeout_s=60) == 7


def test_stuck_threads_are_not_replaced_and_are_reused_when_their_calls_end() -> None:
    threads, entered, release = TimedThreads(2), threading.Semaphore(0), threading.Event()
    ran: list[str] = []

    def wait() -> bool:
        entered.release()
        return release.wait(60)

    stuck = [threads.submit(wait, timeout_s=0.0) for _ in range(2)]
    assert all(entered.acquire(timeout=60) for _ in stuck)
    with pytest.raises(TimeoutError, match="no thread was free"):
        threads.call(lambda: ran.append("never"), timeout_s=0.05)
    before = threads.are_all_stuck
    release.set()
    assert all(future.result(60) for future in stuck)

    assert (before, threads.are_all_stuck) == (True, False)
    assert threads.call(lambda: "again", timeout_s=60) == "again"
    assert ran == [], "a call that had timed out was run"


def test_a_call_that_takes_too_long_times_out() -> None:
    threads, release = TimedThreads(1), threading.Event()

    with pytest.raises(TimeoutError, match=r"longer than 0\.5 s"):
        threads.call(lambda: release.wait(60), timeout_s=0.5)
    release.set()


def test_on_an_event_loop_a_late_call_differs_from_one_that_had_no_thread_and_from_a_timeout_of_its_own() -> None:
    threads, entered, release = TimedThreads(1), threading.Event(), threading.Event()

    def wait() -> bool:
        entered.set()
        return release.wait(60)

    def time_out() -> None:
        raise TimeoutError("its own")

    async def call() -> list[bool]:
        late = asyncio.create_task(threads.call_async(wait, timeout_s=0.5))
        assert await asyncio.to_thread(entered.wait, 60)
        with pytest.raises(Overdue, match="no thread was free") as unstarted:
            await threads.call_async(lambda: True, timeout_s=0.01)
        with pytest.raises(Overdue, match=r"longer than 0\.5 s") as begun:
            await late
        release.set()
        with pytest.raises(TimeoutError, match="its own") as own:
            await threads.call_async(time_out, timeout_s=60)
        return [unstarted.value.has_begun, begun.value.has_begun, isinstance(own.value, Overdue)]

    assert asyncio.run(call()) == [False, True, False]


def test_a_call_that_never_ends_does_not_keep_the_process_alive() -> None:
    script = (
        "import threading; from models.time_limit import TimedThreads; entered = threading.Event();"
        "TimedThreads(1).submit(lambda: (entered.set(), threading.Event().wait()), timeout_s=0); entered.wait()"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
