"""Serving recommendations: requests per second and processor time per request, ours and bare FastAPI with torch.

Both serve the same count-based transitions with histories from the same feature store, on the same machine as the
clients. Ours is what `deploy` starts: Ray Serve with its proxy, one replica, dynamic batching. The other is a single
uvicorn process whose route uses the same classes, features and network, one request at a time. Each client
sends its next request as soon as it has the answer. Processor time is that of the process that answers; the proxy's is
in a column of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.kit import measure
from benchmarks.kit.endpoint import PATH, Endpoint, processor_seconds
from benchmarks.kit.load import Request, waiting_clients
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from jobs.cluster.ports import free_port
from jobs.cluster.processes import created_s, running_process
from models.prepared import Prepared
from models.recommender.sample import Shop

OURS, BARE = "ours", "bare FastAPI and torch"
START_TIMEOUT_S = 60.0


def main() -> None:
    """Measure and write the page."""
    measure.use_environment()
    parser = measure.flags(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--requests", type=int, default=3000, help="of one round")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.requests = 2, 200
    with measure.workspace(arguments) as work:
        data = Prepared(measure.prepared(arguments.data, arguments, work))
        found = measured(data, arguments)
    tables = [tabulate(found[clients], clients, arguments) for clients in arguments.clients]
    write_page("recommender-serving", __doc__, arguments, tables, {"measured": found})


def measured(data: Prepared, arguments: argparse.Namespace) -> dict[int, dict[str, list[Answer]]]:
    """Alternating rounds, A B A B; both servers run all the time, one idle while the other is measured."""
    shop = Shop(Path(arguments.data), Path(arguments.data), {}, ())
    endpoint = Endpoint(data.path.parents[2], free_port(8000), shop)
    endpoint.verb("train", "recommender", "--network", "transitions")
    endpoint.verb("promote", "recommender", "--force", "--reason", "benchmark")
    deployed = endpoint.deploy(replicas=1)
    bundle = endpoint.store / "serve" / "models" / "recommender" / str(deployed["version"])
    port = free_port(8100)
    command = [sys.executable, "-m", "benchmarks.peers.bare_recommender_worker", "--bundle", str(bundle)]
    features = endpoint.store / "recommender" / "features.sqlite"
    bare = subprocess.Popen([*command, "--features", str(features), "--port", str(port)], cwd=measure.ROOT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/openapi.json")
        urls = {OURS: endpoint.url, BARE: f"http://127.0.0.1:{port}"}
        answering = {OURS: endpoint.processes("ServeReplica"), BARE: [running_process(bare.pid, created_s(bare.pid))]}
        proxies = endpoint.processes("haproxy")
        requests = some_requests(data)
        found: dict[int, dict[str, list[Answer]]] = {
            clients: {name: [] for name in urls} for clients in arguments.clients
        }
        for repeat in range(-1, arguments.repeats):
            for clients in arguments.clients:
                for name, url in urls.items():
                    before, proxy_before = processor_seconds(answering[name]), processor_seconds(proxies)
                    load = waiting_clients(
                        url,
                        lambda number: requests[number % len(requests)],
                        num_clients=clients,
                        num_requests=arguments.requests,
                        headers={},
                    )
                    answer: Answer = asyncio.run(load)
                    answer["cpu_ms"] = 1e3 * (processor_seconds(answering[name]) - before) / arguments.requests
                    answer["proxy_ms"] = 1e3 * (processor_seconds(proxies) - proxy_before) / arguments.requests
                    print(f"{clients} clients, {name}: {answer}", file=sys.stderr)
                    if repeat >= 0:  # the first round warms up
                        found[clients][name].append(answer)
        return found
    finally:
        bare.terminate()
        bare.wait()
        endpoint.verb("stop", check=False)


def some_requests(data: Prepared) -> list[Request]:
    """Requests of users of the prepared data, in a random order."""
    users = [
        user
        for directory in data.shards()
        for user in pq.read_table(directory / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
    ]
    chosen = np.random.default_rng(0).permutation(len(users))[:1000]
    return [Request(PATH, {"user_id": users[place], "count": 10}) for place in chosen]


def tabulate(found: dict[str, list[Answer]], clients: int, arguments: argparse.Namespace) -> Table:
    """A row for each system; ratios are against the bare one, round by round."""
    rows = []
    for name, answers in found.items():
        pairs: list[tuple[Any, Any]] = list(zip(answers, found[BARE], strict=True))
        columns = (("requests_per_s", ",.0f"), ("p50_ms", ",.1f"), ("p99_ms", ",.1f"), ("cpu_ms", ",.2f"))
        cells = [Spread.of(answer[key] for answer in answers).text(form) for key, form in columns]
        cells.append(Spread.of(answer["proxy_ms"] for answer in answers).text(",.2f") if name == OURS else "")
        for key in ("requests_per_s", "cpu_ms"):
            cells.append(Spread.of(one[key] / other[key] for one, other in pairs).text(",.2f"))
        rows.append([name, *cells, str(len(answers))])
    header = ["system", "requests / s", "median, ms", "p99, ms", "processor ms a request", "of the proxy"]
    return Table(
        f"{measure.label(arguments.data)}, {clients} clients",
        [*header, "x requests of bare", "x processor time of bare", "n"],
        rows,
    )


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
