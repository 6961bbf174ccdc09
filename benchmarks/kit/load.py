"""Load on an endpoint: requests at a constant rate or from waiting clients, each with its time, status and retry."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

TIMEOUT_S = 10.0
MAX_CONNECTIONS = 512


@dataclass(frozen=True)
class Request:
    """One request of a load."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """A request that was sent, and what came of it."""

    at_s: float
    """When it was due, on the monotonic clock."""
    latency_s: float
    status: int | None
    """None if the connection failed or timed out."""
    retry_status: int | None = None
    """Status of the one retry of a failed request."""
    source: str | None = None
    """`source` of the answer, if it has one."""

    @property
    def is_good(self) -> bool:
        return self.status is not None and self.status < 400

    @property
    def is_good_after_retry(self) -> bool:
        return self.is_good or (self.retry_status is not None and self.retry_status < 400)


@dataclass
class Load:
    """Requests at a constant rate from a thread of its own, whether or not earlier ones are answered."""

    url: str
    requests: Callable[[int], Request]
    """The number of a request -> the request."""
    rate: float
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        waiting: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=dict(self.headers)) as session:
            started, number = time.monotonic(), 0
            while not self._stopping.is_set():
                due = started + number / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._send(session, number, due))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                number += 1
            await asyncio.gather(*waiting)

    async def _send(self, session: aiohttp.ClientSession, number: int, due: float) -> None:
        request = self.requests(number)
        status, source = await post(session, f"{self.url}{request.path}", request.body)
        latency = time.monotonic() - due
        retried = None
        if status is None or status >= 400:
            retried, source = await post(session, f"{self.url}{request.path}", request.body)
        self.sent.append(Sent(due, latency, status, retried, source))


async def post(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """The status of a request, None if the connection failed, and the `source` of its answer."""
    try:
        async with session.post(url, json=body) as response:
            content = await response.read()
            if response.status >= 400 or not content.startswith(b"{"):
                return response.status, None
            return response.status, (await response.json()).get("source")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None, None


def summary(sent: Sequence[Sent], *, since_s: float) -> dict[str, Any]:
    """What a load has seen from a moment on: failures with and without a retry, the outage, latencies.

    The outage is the longest time between two good answers, or from the moment to the first one.
    """
    after = sorted((one for one in sent if one.at_s >= since_s), key=lambda one: one.at_s + one.latency_s)
    good = [since_s, *(one.at_s + one.latency_s for one in after if one.is_good)]
    bad = [one.at_s + one.latency_s for one in after if not one.is_good]
    latencies = [one.latency_s for one in after if one.is_good] or [float("nan")]
    return {
        "requests": len(after),
        "failed": sum(not one.is_good for one in after),
        "failed_after_retry": sum(not one.is_good_after_retry for one in after),
        "statuses": {
            str(status): sum(one.status == status for one in after) for status in {one.status for one in after}
        },
        "fallbacks": sum(one.source == "fallback" for one in after),
        "outage_s": float(max(np.diff(good), default=0.0)),
        "recovered_s": max(0.0, max(bad) - since_s) if bad else 0.0,
        "p50_ms": 1e3 * float(np.percentile(latencies, 50)),
        "p99_ms": 1e3 * float(np.percentile(latencies, 99)),
    }


async def waiting_clients(
    url: str, requests: Callable[[int], Request], *, num_clients: int, num_requests: int, headers: Mapping[str, str]
) -> dict[str, float]:
    """Requests per second and latencies of clients that send their next request when they have the last answer."""
    latencies: list[float] = []
    numbers = iter(range(num_requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            request = requests(number)
            started = time.perf_counter()
            async with session.post(f"{url}{request.path}", json=request.body) as response:
                content = await response.read()
                assert response.status == 200, content
            latencies.append(time.perf_counter() - started)

    connector = aiohttp.TCPConnector(limit=num_clients)
    async with aiohttp.ClientSession(connector=connector, headers=dict(headers)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(num_clients)))
        seconds = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return {"requests_per_s": num_requests / seconds, "p50_ms": float(p50), "p99_ms": float(p99)}
