"""Processor time of a recommendation for a known user: ours, and a bare FastAPI route with the same model and checks.

Both answer in this process, driven through ASGI without a server, so that the numbers are processor time and hardly
depend on the load of the machine. The bare route reads the history from the same feature store, validates the request
and the response with the same classes and predicts in the event loop, one request at a time.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import torch

from benchmarks.kit import measure
from benchmarks.kit.page import Spread, Table, write_page
from benchmarks.kit.served_shop import NUM_USERS, served, write_shop
from benchmarks.peers.bare_recommender_worker import make_app as make_bare_app
from serve.routes import make_app

PATH = "/v1/recommendations"
BARE = "bare FastAPI and torch"
Asgi = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]


def main() -> None:
    """Measure and write the page."""
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000, help="of one round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with measure.workspace(arguments) as work:
        settings = write_shop(work)
        apps: dict[str, Asgi] = {
            BARE: make_bare_app(settings.bundle, settings.feature_store),
            "ours": make_app(served(settings)),
        }
        tables, raw = [], {}
        for num_clients in (1, 16):
            found = asyncio.run(alternate(apps, num_clients, arguments.repeats, arguments.requests))
            raw[str(num_clients)] = found
            tables.append(tabulate(found, num_clients))
    write_page("request-cost", __doc__, arguments, tables, {"us_per_request": raw})


async def alternate(
    apps: dict[str, Asgi], num_clients: int, num_repeats: int, num_requests: int
) -> dict[str, list[float]]:
    """Microseconds of processor time a request, in rounds A B A B; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in apps}
    for repeat in range(-1, num_repeats):
        for name, app in apps.items():
            users = random.Random(repeat)
            numbers = iter([users.randrange(NUM_USERS) for _ in range(num_requests)])

            async def client(app: Asgi = app, numbers: Any = numbers) -> None:
                for number in numbers:
                    await ask(app, json.dumps({"user_id": f"u{number:08}", "count": 10}).encode())

            started = time.process_time()
            await asyncio.gather(*(client() for _ in range(num_clients)))
            if repeat >= 0:
                found[name].append((time.process_time() - started) / num_requests * 1e6)
    return found


async def ask(app: Asgi, body: bytes) -> None:
    """One request as a server passes it on; raises AssertionError unless it is answered with items."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"shop"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 200 and b'"item_id"' in sent[1]["body"], sent


def tabulate(found: dict[str, list[float]], num_clients: int) -> Table:
    """A row for each system; ratios are round by round."""
    others = found[BARE]
    rows = [
        [
            name,
            Spread.of(each).text(",.0f"),
            Spread.of(ours / bare for ours, bare in zip(each, others, strict=True)).text(",.2f"),
            str(len(each)),
        ]
        for name, each in found.items()
    ]
    header = ["system", "processor time a request, microseconds", "x times bare", "n"]
    return Table(f"{num_clients} concurrent requests", header, rows)


if __name__ == "__main__":
    main()
