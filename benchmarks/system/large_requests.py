"""Large requests: how long other clients wait while 20 requests of 1 MB are answered.

One replica of the recommender behind uvicorn, without Ray. Meanwhile a client asks /healthz, and another asks for
recommendations of a known user, one after the other.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import sys
import time
from typing import Any

import aiohttp
import numpy as np
import torch
import uvicorn

from benchmarks.kit import measure
from benchmarks.kit.page import Table, write_page
from benchmarks.kit.served_shop import served, write_shop
from jobs.cluster.ports import free_port
from serve.routes import make_app
from serve.service import Settings

NUM_REQUESTS = 20
NUM_BYTES = 1_000_000
TIMEOUT_S = 300.0
QUIET_S = 2.0


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    arguments = parser.parse_args()
    with measure.workspace(arguments) as work:
        settings, port = write_shop(work), free_port(8111)
        replica = multiprocessing.get_context("spawn").Process(target=serve, args=(settings, port))
        replica.start()
        try:
            found = {name: asyncio.run(attack(f"http://127.0.0.1:{port}", body)) for name, body in bodies().items()}
        finally:
            replica.terminate()
            replica.join()
    write_page("large-requests", __doc__, arguments, [tabulate(found)], {"measured": found})


def serve(settings: Settings, port: int) -> None:
    """Serve one replica until terminated."""
    torch.set_num_threads(1)
    sys.setswitchinterval(0.001)  # as a replica does, see serve/app.py
    app = make_app(served(settings))
    gc.collect()
    gc.freeze()
    uvicorn.run(app, port=port, timeout_keep_alive=75, log_level="warning", access_log=False)


def bodies() -> dict[str, bytes]:
    """Bodies of 1 MB, by what fills them."""
    numbers = range(NUM_BYTES // 8)
    filled: dict[str, dict[str, Any]] = {
        "no attack": {},
        "filter values": {"filter": {"brand": [f"{number:05}" for number in numbers]}},
        "numbers as filter values": {"filter": {"price": [number + 0.5 for number in numbers]}},
        "excluded items": {"exclude": [f"{number:05}" for number in range(min(100_000, NUM_BYTES // 10))]},
        "history": {"history": [{"item_id": "x" * 60, "event_type": "view"} for _ in range(10_000)]},
        "16 attributes": {
            "filter": {
                f"attribute-{place}": [f"{number:05}" for number in range(NUM_BYTES // 16 // 8)] for place in range(16)
            }
        },
    }
    return {name: json.dumps(each, separators=(",", ":")).encode() for name, each in filled.items()}


async def attack(url: str, body: bytes) -> dict[str, Any]:
    """The latencies of others in ms while the requests are answered, and how these were answered."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64)) as session:
        await wait_for(session, f"{url}/healthz")
        is_over = asyncio.Event()
        others = [
            asyncio.create_task(ask_until(is_over, session, "GET", f"{url}/healthz", None)),
            asyncio.create_task(
                ask_until(is_over, session, "POST", f"{url}/v1/recommendations", {"user_id": "u00000001", "count": 10})
            ),
        ]
        await asyncio.sleep(0.5)
        started = time.perf_counter()
        if len(body) > 100:
            statuses = await asyncio.gather(
                *(post(session, f"{url}/v1/recommendations", body) for _ in range(NUM_REQUESTS))
            )
        else:
            statuses = []
            await asyncio.sleep(QUIET_S)
        seconds = time.perf_counter() - started
        is_over.set()
        health, users = await asyncio.gather(*others)
    return {
        "num_bytes": len(body),
        "seconds": seconds,
        "statuses": {str(status): statuses.count(status) for status in set(statuses)},
        "healthz_ms": summary(health),
        "recommendation_ms": summary(users),
    }


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """The status of a request of JSON."""
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        await response.read()
        return response.status


async def ask_until(
    is_over: asyncio.Event, session: aiohttp.ClientSession, method: str, url: str, body: dict[str, Any] | None
) -> list[float]:
    """Latencies in ms of requests, one after the other."""
    latencies = []
    while not is_over.is_set():
        started = time.perf_counter()
        async with session.request(method, url, json=body) as response:
            await response.read()
        latencies.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0.005)
    return latencies


async def wait_for(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the replica answers."""
    for _ in range(120):
        try:
            async with session.get(url):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.5)
    print("the replica did not start", file=sys.stderr)


def summary(latencies: list[float]) -> dict[str, float]:
    """Quantiles of latencies."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"n": len(latencies), "p50": float(p50), "p99": float(p99), "max": max(latencies)}


def tabulate(found: dict[str, dict[str, Any]]) -> Table:
    """A row for each kind of body."""
    header = ["20 requests of", "bytes each", "answered in, s", "statuses"]
    header += ["healthz p50, ms", "p99", "max", "recommendation p50, ms", "p99", "max"]
    rows = []
    for name, each in found.items():
        cells = [name, f"{each['num_bytes']:,}", f"{each['seconds']:.1f}", str(each["statuses"] or "-")]
        for kind in ("healthz_ms", "recommendation_ms"):
            cells += [f"{each[kind][key]:.1f}" for key in ("p50", "p99", "max")]
        rows.append(cells)
    return Table("One replica, one thread of torch", header, rows)


if __name__ == "__main__":
    main()
