"""Where the parallel parts of a verb run: threads of this machine, or tasks of a Ray cluster."""

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
"""Each holds a partition in memory, so more would only cost memory."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class RayExecutor(Executor):
    """A standard executor whose calls are Ray tasks of one CPU each."""

    def __init__(self) -> None:
        self._pending: list[tuple[ray.ObjectRef[Any], Future[Any]]] = []

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Start one task; an exception in it is raised as itself by `result()`."""
        import ray

        reference = ray.remote(num_cpus=1)(_call).remote(fn, args, kwargs)
        future = _unwrapped(reference.future())
        self._pending.append((reference, future))
        return cast("Future[Result]", future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the tasks that have started; `cancel_futures` takes the others back."""
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
    """An executor for the length of a `with`: on the cluster at `context.address`, else threads of this machine.

    Threads, because the work is in Arrow and numpy, which let go of the interpreter. When the block is left by an
    exception, calls that have not started are dropped and the others awaited: nobody writes files afterwards.
    """
    if context.address:
        connect(context)
    pool: Executor = RayExecutor() if context.address else ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


def _unwrapped(source: Future[Any]) -> Future[Any]:
    """The same future, but failing with the task's own exception rather than Ray's wrapper around it."""
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
