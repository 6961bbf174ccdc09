"""The micro-batcher: what is waiting when the worker is free goes together; nothing ever waits for company."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

MAX_BATCH = 64

log = logging.getLogger("shopkeeper.serve")

Predict = Callable[[Sequence[Any]], list[Any]]
"""Examples -> one prediction each; examples of equal `Predict` may share a batch."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    predict: Predict
    example: Any
    future: asyncio.Future[Any]


class Batcher:
    """Runs predictions in one worker thread, several examples at a time when several wait."""

    def __init__(self, worker: Executor | None = None, *, max_batch: int = MAX_BATCH) -> None:
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._max_batch = max_batch
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False

    async def submit(self, predict: Predict, example: Any) -> Any:
        """The prediction for one example; raises what `predict` raises for this example alone."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(predict, example, future))
        if not self._is_busy:
            self._start_next()
        return await future

    async def submit_all(self, predict: Predict, examples: Sequence[Any]) -> list[Any]:
        """The predictions for the examples of one request, in their order; raises what the first that fails raises."""
        return await asyncio.gather(*(self.submit(predict, example) for example in examples))

    def _start_next(self) -> None:
        batch = self._take()
        self._is_busy = bool(batch)
        if batch:
            examples = [waiting.example for waiting in batch]
            running = asyncio.get_running_loop().run_in_executor(self._worker, _outcomes, batch[0].predict, examples)
            running.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[_Waiting]:
        """The oldest that waits, and others of the same kind; without those whose client has gone."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if waiting.future.cancelled():
                continue
            if batch and waiting.predict is not batch[0].predict:
                others.append(waiting)
            else:
                batch.append(waiting)
        self._waiting.extendleft(reversed(others))
        return batch

    def _finish(self, batch: list[_Waiting], done: asyncio.Future[list[Any]]) -> None:
        failure = done.exception()
        outcomes = [failure] * len(batch) if failure else done.result()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.future.cancelled():
                continue
            if isinstance(outcome, BaseException):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        self._start_next()


def _outcomes(predict: Predict, examples: Sequence[Any]) -> list[Any]:
    """A prediction or an exception for each example."""
    try:
        predictions = predict(examples)
        assert len(predictions) == len(examples), "predict gives one prediction per example"
    except Exception as error:  # noqa: BLE001  handed to the request that it belongs to
        if len(examples) == 1:
            return [error]
        # One bad example must not harm the others of its batch.
        log.warning("a batch of %d failed (%s); trying its examples one by one", len(examples), error)
        return [outcome for example in examples for outcome in _outcomes(predict, [example])]
    return predictions
