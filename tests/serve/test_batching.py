"""The micro-batcher: no request waits for a batch to fill, and bad examples fail alone."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serve.batching import Batcher


def test_a_single_request_does_not_wait_and_queued_ones_share_a_batch() -> None:
    started, release, sizes = threading.Event(), threading.Event(), []

    def predict(examples: Sequence[int]) -> list[int]:
        sizes.append(len(examples))
        started.set()
        assert release.wait(10)
        return [example * 2 for example in examples]

    async def ask() -> list[int]:
        batcher = Batcher()
        lone = asyncio.create_task(batcher.submit(predict, 0))
        assert await asyncio.to_thread(started.wait, 10), "the single request must not wait"
        others = [asyncio.create_task(batcher.submit(predict, number)) for number in range(1, 6)]
        await asyncio.sleep(0)  # lets them all queue
        release.set()
        return list(await asyncio.gather(lone, *others))

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert sizes == [1, 5]


def test_a_batch_respects_its_limit_and_never_mixes_predict_functions() -> None:
    batches: list[tuple[str, list[int]]] = []

    def kind(name: str) -> Callable[[Sequence[int]], list[int]]:
        def predict(examples: Sequence[int]) -> list[int]:
            batches.append((name, list(examples)))
            return list(examples)

        return predict

    async def ask() -> None:
        batcher, odd, even = Batcher(max_batch=3), kind("odd"), kind("even")
        answers = [batcher.submit(odd if number % 2 else even, number) for number in range(12)]
        assert await asyncio.gather(*answers) == list(range(12))

    asyncio.run(ask())
    assert max(len(examples) for _, examples in batches) == 3
    assert all(number % 2 == (name == "odd") for name, examples in batches for number in examples)


def test_a_bad_example_fails_alone() -> None:
    def predict(examples: Sequence[int]) -> list[int]:
        if 3 in examples:
            raise RuntimeError("bad example")
        return list(examples)

    async def ask() -> list[Any]:
        batcher = Batcher()
        return await asyncio.gather(*(batcher.submit(predict, number) for number in range(6)), return_exceptions=True)

    answers = asyncio.run(ask())
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 1, 2, 4, 5]
    assert isinstance(answers[3], RuntimeError)


def test_a_disconnected_client_does_not_affect_the_others() -> None:
    started, release = threading.Event(), threading.Event()

    def predict(examples: Sequence[int]) -> list[int]:
        started.set()
        assert release.wait(10)
        return list(examples)

    async def ask() -> int:
        batcher = Batcher()
        gone = [asyncio.create_task(batcher.submit(predict, number)) for number in range(2)]
        stays = asyncio.create_task(batcher.submit(predict, 7))
        await asyncio.to_thread(started.wait, 10)
        for task in gone:
            task.cancel()
        await asyncio.sleep(0)
        release.set()
        return int(await stays)

    assert asyncio.run(ask()) == 7


def test_the_queued_examples_of_a_failed_request_are_not_predicted() -> None:
    release, batches = threading.Event(), []

    def predict(examples: Sequence[int]) -> list[int]:
        batches.append(list(examples))
        if 0 in examples:
            raise RuntimeError("bad example")
        if len(batches) == 2:  # begins before the request learns of its error
            assert release.wait(10)
        return list(examples)

    async def ask() -> int:
        batcher = Batcher(max_batch=2)
        with pytest.raises(RuntimeError, match="bad example"):
            await batcher.submit_all(predict, range(100))
        other = asyncio.create_task(batcher.submit(predict, 100))
        await asyncio.sleep(0)
        release.set()
        return int(await other)

    assert asyncio.run(ask()) == 100
    assert batches == [[0], [1, 2], [100]]


def test_a_prediction_that_exits_does_not_end_the_event_loop() -> None:
    async def ask() -> int:
        batcher = Batcher()
        with pytest.raises(RuntimeError, match="SystemExit: 3"):
            await batcher.submit(lambda examples: sys.exit(3), 0)
        return int(await batcher.submit(lambda examples: [7] * len(examples), 0))

    assert asyncio.run(ask()) == 7
