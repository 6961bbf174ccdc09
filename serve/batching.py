"""Micro-batching: whatever is queued when the worker becomes free forms a batch; nothing waits for a batch to fill."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from models.time_limit import as_exception

MAX_BATCH = 64

log = logging.getLogger("shopkeeper.serve")

Predict = Callable[[Sequence[Any]], list[Any]]
"""Examples -> one prediction each; examples with the same `Predict` may share a batch."""


@dataclass(frozen=True, eq=False)
class _Pending:
    predict: Predict
    example: Any
    future: asyncio.Future[Any]


class Batcher:
    """Runs predictions in one worker thread, batching the examples that are queued."""

    def __init__(self, worker: Executor | None = None, *, max_batch: int = MAX_BATCH) -> None:
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._max_batch = max_batch
        self._queue: deque[_Pending] = deque()
        self._is_busy = False

    async def submit(self, predict: Predict, example: Any) -> Any:
        """The prediction for one example; raises what `predict` raises for this example."""
        future = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(predict, example, future))
        if not self._is_busy:
            self._start_next()
        return await future

    async def submit_all(self, predict: Predict, examples: Sequence[Any]) -> list[Any]:
        """The predictions for the examples of one request, in order; raises the first error and drops the others."""
        if len(examples) == 1:  # as usual: without a task
            return [await self.submit(predict, examples[0])]
        tasks = [asyncio.create_task(self.submit(predict, example)) for example in examples]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _start_next(self) -> None:
        batch = self._take()
        self._is_busy = bool(batch)
        if batch:
            examples = [pending.example for pending in batch]
            running = asyncio.get_running_loop().run_in_executor(self._worker, _outcomes, batch[0].predict, examples)
            running.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Pending]:
        """The oldest queued example and others with the same `predict`, without those of disconnected clients."""
        batch: list[_Pending] = []
        others: deque[_Pending] = deque()
        while self._queue and len(batch) < self._max_batch:
            pending = self._queue.popleft()
            if pending.future.cancelled():
                continue
            if batch and pending.predict is not batch[0].predict:
                others.append(pending)
            else:
                batch.append(pending)
        self._queue.extendleft(reversed(others))
        return batch

    def _finish(self, batch: list[_Pending], done: asyncio.Future[list[Any]]) -> None:
        failure = done.exception()
        outcomes = [as_exception(failure)] * len(batch) if failure else done.result()
        for pending, outcome in zip(batch, outcomes, strict=True):
            if pending.future.cancelled():
                continue
            if isinstance(outcome, BaseException):
                pending.future.set_exception(outcome)
            else:
                pending.future.set_result(outcome)
        self._start_next()


def _outcomes(predict: Predict, examples: Sequence[Any]) -> list[Any]:
    """A prediction or an exception for each example."""
    try:
        predictions = predict(examples)
        assert len(predictions) == len(examples), "predict must return one prediction per example"
    except Exception as error:  # noqa: BLE001  passed to the request that caused it
        if len(examples) == 1:
            return [error]
        # A bad example must not fail the others of its batch.
        log.warning("a batch of %d failed (%s); retrying its examples one by one", len(examples), error)
        return [outcome for example in examples for outcome in _outcomes(predict, [example])]
    return predictions
