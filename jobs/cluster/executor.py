"""Executors for the parallel parts of a verb: local threads, or tasks on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from jobs.cli.context import Context
from jobs.cluster.connection import connect

if TYPE_CHECKING:  # seconds to import
    import ray

MAX_THREADS = 8
"""Each holds a partition in memory."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class RayExecutor(Executor):
    """A concurrent.futures executor that runs each call as a Ray task with one CPU."""

    def __init__(self) -> None:
        self._pending: list[tuple[ray.ObjectRef[Any], Future[Any]]] = []

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Start a task; `result()` raises the task's original exception."""
        import ray

        reference = ray.remote(num_cpus=1)(_call).remote(fn, args, kwargs)
        future = _unwrapped(reference.future())
        self._pending.append((reference, future))
        return cast("Future[Result]", future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for running tasks; `cancel_futures` cancels pending ones."""
        import ray

        if cancel_futures:
            for reference, future in self._pending:
                if not future.done():
                    ray.cancel(reference)
        references = [reference for reference, _ in self._pending]
        if wait and references:
            ray.wait(references, num_returns=len(references))


@contextmanager
def executor(context: Context) -> Iterator[Executor]:
    """An executor in a `with` block: on the cluster at `context.address`, else local threads.

    Threads suffice because the work is in Arrow and numpy, which release the GIL. If the block raises, pending calls
    are cancelled and running ones awaited, so that no files are written afterwards.
    """
    if context.address:
        connect(context)
    pool: Executor = RayExecutor() if context.address else ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))
    try:
        yield pool
        pool.shutdown(wait=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # nothing is pending unless the block was left early


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _unwrapped(source: Future[Any]) -> Future[Any]:
    """A future that fails with the task's own exception instead of Ray's wrapper."""
    import ray

    unwrapped: Future[Any] = Future()

    def copy(done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            unwrapped.set_result(done.result())
        else:
            unwrapped.set_exception(error.cause if isinstance(error, ray.exceptions.RayTaskError) else error)

    source.add_done_callback(copy)
    return unwrapped
