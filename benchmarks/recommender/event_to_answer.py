"""From the acknowledgement of an event to the first answer that has it, at a constant rate of events.

Two replicas are served. At each tick a visitor who was never seen sends one event, and as soon as it is acknowledged
the same visitor asks for recommendations, over a new connection, until the answer is personal instead of popular.
Where the first answer had it, the wait is the latency of that answer.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from benchmarks.kit import measure
from benchmarks.kit.endpoint import PATH, Endpoint, served, trained
from benchmarks.kit.page import Table, write_page

EVENTS_PATH = "/v1/events"
GIVE_UP_S = 10.0
WARM_S = 5.0


@dataclass(frozen=True)
class Visit:
    """What one event took."""

    acknowledged_s: float
    """From its time due to its acknowledgement; NaN if it was not acknowledged."""
    in_answer_s: float
    """From the acknowledgement to the end of the first answer that has it; NaN if none had."""
    num_answers: int


def main() -> None:
    """Measure and write the page."""
    measure.use_environment()
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rate", type=float, default=50.0, help="events per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of one round")
    parser.add_argument("--port", type=int, default=8390)
    parser.add_argument("--users", type=int, default=2_000)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds = 1, 5.0
    with measure.workspace(arguments) as work:
        endpoint = trained(work, port=arguments.port, num_users=arguments.users)
        with served(endpoint, replicas=2):
            time.sleep(WARM_S)
            rounds = [asyncio.run(visits(endpoint, number, arguments)) for number in range(arguments.repeats)]
    found = [summary(each) for each in rounds]
    write_page("event-to-answer", __doc__, arguments, [tabulate(found, arguments)], {"measured": found})


async def visits(endpoint: Endpoint, number: int, arguments: argparse.Namespace) -> list[Visit]:
    """One round of visitors, each due at its time whether or not earlier ones are done."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(endpoint.url, connector=connector) as session:
        begin = time.monotonic()
        tasks = []
        for index in range(int(arguments.rate * arguments.seconds)):
            due = begin + index / arguments.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.append(asyncio.create_task(visit(session, f"visitor-{number}-{index}", due, _item(endpoint, index))))
        return list(await asyncio.gather(*tasks))


async def visit(session: aiohttp.ClientSession, visitor: str, due: float, item_id: str) -> Visit:
    """Send an event, then ask until the answer has it."""
    event = {"event_id": f"event-{visitor}", "user_id": visitor, "item_id": item_id}
    async with session.post(EVENTS_PATH, json=event) as response:
        await response.read()
        if response.status != 200:
            return Visit(float("nan"), float("nan"), 0)
    acknowledged = time.monotonic()
    for number in range(1, 1000):
        async with session.post(PATH, json={"user_id": visitor, "count": 10}) as response:
            answer = await response.json()
        now = time.monotonic()
        if answer.get("source") == "personal":
            return Visit(acknowledged - due, now - acknowledged, number)
        if now > acknowledged + GIVE_UP_S:
            break
    return Visit(acknowledged - due, float("nan"), number)


def _item(endpoint: Endpoint, index: int) -> str:
    known = list(endpoint.shop.followers)
    return known[index % len(known)]


def summary(done: list[Visit]) -> dict[str, Any]:
    """Counts, and quantiles in milliseconds."""
    acknowledged = np.array([each.acknowledged_s for each in done]) * 1000
    in_answer = np.array([each.in_answer_s for each in done]) * 1000
    return {
        "events": len(done),
        "not acknowledged": int(np.isnan(acknowledged).sum()),
        "in no answer": int(np.isnan(in_answer).sum()),
        "in the first answer": sum(each.num_answers == 1 for each in done),
        "acknowledged p50 ms": float(np.nanquantile(acknowledged, 0.5)),
        "acknowledged p99 ms": float(np.nanquantile(acknowledged, 0.99)),
        "in an answer p50 ms": float(np.nanquantile(in_answer, 0.5)),
        "in an answer p99 ms": float(np.nanquantile(in_answer, 0.99)),
        "in an answer max ms": float(np.nanmax(in_answer)),
    }


def tabulate(found: list[dict[str, Any]], arguments: argparse.Namespace) -> Table:
    """A row for each round."""
    rows = [[f"{value:.0f}" if isinstance(value, float) else str(value) for value in each.values()] for each in found]
    return Table(f"{arguments.rate:g} events/s for {arguments.seconds:g} s, each round", list(found[0]), rows)


if __name__ == "__main__":
    main()
