"""Runs calls with a time limit in a fixed number of threads; the caller stops waiting at the limit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Overdue(TimeoutError):
    """A call that did not end in time, or that no thread was free for."""

    def __init__(self, timeout_s: float, *, has_begun: bool) -> None:
        late = f"the answer took longer than {timeout_s:g} s"
        never = f"no thread was free within {timeout_s:g} s, because other answers take long"
        super().__init__(late if has_begun else never)
        self.has_begun = has_begun


@dataclass(frozen=True)
class _Call:
    run: Callable[[], Any]
    future: Future[Any]
    deadline_s: float


class TimedThreads:
    """A fixed number of threads for calls with a time limit; a call that never ends occupies its thread for good.

    Unlike those of a ThreadPoolExecutor, the threads do not keep the process from exiting.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._num_started = 0
        self._waiting: SimpleQueue[_Call] = SimpleQueue()
        self._deadlines_s: dict[int, float] = {}
        """Thread -> deadline of the call that it runs."""

    @property
    def are_all_stuck(self) -> bool:
        """Whether every thread runs a call that is past its deadline."""
        deadlines = list(self._deadlines_s.values())
        now = time.monotonic()
        return len(deadlines) == self._num_threads and all(deadline <= now for deadline in deadlines)

    def submit(self, run: Callable[[], T], *, timeout_s: float) -> Future[T]:
        """Run a call when a thread is free; its time limit starts now, and the caller is to stop waiting at its end."""
        future: Future[T] = Future()
        self._waiting.put(_Call(run, future, time.monotonic() + timeout_s))
        if self._num_started < self._num_threads:
            threading.Thread(target=self._work, args=(self._num_started,), daemon=True, name="timed").start()
            self._num_started += 1
        return future

    def call(self, run: Callable[[], T], *, timeout_s: float) -> T:
        """The result of a call; raises Overdue when it takes longer or no thread is free in that time."""
        future = self.submit(run, timeout_s=timeout_s)
        concurrent.futures.wait([future], timeout=timeout_s)
        if not future.done():
            raise Overdue(timeout_s, has_begun=not future.cancel())
        return future.result()

    async def call_async(self, run: Callable[[], T], *, timeout_s: float) -> T:
        """Like `call`, on an event loop."""
        future = self.submit(run, timeout_s=timeout_s)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not limit.expired():  # raised by the call itself
                raise
            # The timeout has cancelled it, unless it is running.
            raise Overdue(timeout_s, has_begun=not future.cancelled()) from None

    def _work(self, number: int) -> None:
        while True:
            call = self._waiting.get()
            if not call.future.set_running_or_notify_cancel():
                continue
            self._deadlines_s[number] = call.deadline_s
            try:
                result = call.run()
            except BaseException as error:  # noqa: BLE001  passed on to the caller
                del self._deadlines_s[number]
                call.future.set_exception(as_exception(error))
            else:
                del self._deadlines_s[number]
                call.future.set_result(result)
            del call  # not kept alive until the next call


def as_exception(error: BaseException) -> Exception:
    """An error for an event loop, which SystemExit or KeyboardInterrupt would end: those become a RuntimeError."""
    if isinstance(error, Exception):
        return error
    replaced = RuntimeError(f"the call ended with {type(error).__name__}: {error}")
    replaced.__cause__ = error
    return replaced
