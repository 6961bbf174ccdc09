"""Serving images: requests per second of `recognise` with concurrent clients, ours and bare FastAPI with torch.

Both serve the same untrained network, which costs as much as a trained one, on the same machine as the clients. Ours is
what `deploy` starts: Ray Serve with its proxy, one replica, all input checks, dynamic batching. The other is a single
uvicorn process that decodes and predicts one image at a time, without checks. Each client sends its next image as soon
as it has the response.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch

from benchmarks.kit import measure
from benchmarks.kit.measure import Answer
from benchmarks.kit.page import Spread, Table, write_page
from jobs import deploy
from jobs.cli.context import Context, Store
from jobs.cluster.local_head import stop_head
from jobs.cluster.ports import free_port
from models import bundle, golden
from models.bundle import config_from_dict
from models.image import FAMILY
from models.image.codec import encode_png
from models.image.data import Shard
from models.image.schema import Schema
from models.prepared import Prepared

OURS, BARE = "ours", "bare FastAPI and torch"
NUM_IMAGES = 64
START_TIMEOUT_S = 60.0


def main() -> None:
    """Measure and write the page."""
    measure.use_environment()
    parser = measure.flags(__doc__)
    parser.set_defaults(prepare=[])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1500, help="of one round")
    arguments = measure.read(parser)
    if arguments.quick:
        arguments.repeats, arguments.requests = 2, 200
    with measure.workspace(arguments) as work:
        data = Prepared(measure.prepared(arguments.data, arguments, work, family_name="image"))
        model = write_model(data, work / "model", arguments)
        found = alternate(data, model, arguments)
    tables = [tabulate(found, arguments)]
    write_page("image-serving", __doc__, arguments, tables, {"measured": found})


def write_model(data: Prepared, directory: Path, arguments: argparse.Namespace) -> Path:
    """The bundle of an untrained network."""
    config, schema = config_from_dict(FAMILY.Config, measure.overrides(arguments.config)), data.schema(Schema)
    torch.manual_seed(config.seed)
    network = FAMILY.build(config, schema)
    FAMILY.initialise(network, data, schema)
    files = {
        "config.json": dataclasses.asdict(config),
        "schema.json": schema.model_dump(mode="json"),
        "metrics.json": {},
        "golden.json": golden.golden(FAMILY, network, schema),
    }
    bundle.write_directory(directory, files, {"model.safetensors": network.state_dict()})
    return directory


def alternate(data: Prepared, model: Path, arguments: argparse.Namespace) -> dict[str, list[Answer]]:
    """Alternating rounds, A B A B; both servers run all the time, one idle while the other is measured."""
    store = Store(data.path.parents[2])
    ours, bare = free_port(8000), free_port(8100)
    command = [sys.executable, "-m", "benchmarks.peers.bare_serving_worker", "--bundle", str(model)]
    other = subprocess.Popen([*command, "--port", str(bare)], cwd=measure.ROOT)
    try:
        options = deploy.Options(model=str(model), port=ours, max_replicas=1)
        deploy.run(Context(store=store), FAMILY, options, None)
        urls = {OURS: f"http://127.0.0.1:{ours}/v1/images/recognise", BARE: f"http://127.0.0.1:{bare}/recognise"}
        images = some_images(data)
        found: dict[str, list[Answer]] = {name: [] for name in urls}
        for repeat in range(-1, arguments.repeats):
            for name, url in urls.items():
                answer = asyncio.run(round_of(url, images, arguments.clients, arguments.requests))
                print(f"{name}: {answer}", file=sys.stderr)
                if repeat >= 0:  # the first round warms up
                    found[name].append(answer)
        return found
    finally:
        other.terminate()
        other.wait()
        stop_head(store)


def some_images(data: Prepared) -> list[bytes]:
    """Prepared images as PNG files."""
    pixels = Shard.open(data, 0).pixels
    return [encode_png(np.asarray(pixels[index % len(pixels)])) for index in range(NUM_IMAGES)]


async def round_of(url: str, images: list[bytes], num_clients: int, num_requests: int) -> Answer:
    """Requests per second and latencies of one round."""
    latencies: list[float] = []
    numbers = iter(range(num_requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            started = time.perf_counter()
            content = images[number % len(images)]
            async with session.post(url, data=content, headers={"Content-Type": "image/png"}) as response:
                assert response.status == 200, await response.text()
                await response.read()
            latencies.append(time.perf_counter() - started)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=num_clients)) as session:
        await wait_for(session, url, images[0])
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(num_clients)))
        seconds = time.perf_counter() - started
    p50, p95 = np.percentile(latencies, [50, 95]) * 1000
    return {"requests_per_s": num_requests / seconds, "p50_ms": float(p50), "p95_ms": float(p95)}


async def wait_for(session: aiohttp.ClientSession, url: str, image: bytes) -> None:
    """Wait until a server that was just started answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            async with session.post(url, data=image, headers={"Content-Type": "image/png"}) as response:
                assert response.status == 200, await response.text()
                return
        except aiohttp.ClientConnectionError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)


def tabulate(found: dict[str, list[Answer]], arguments: argparse.Namespace) -> Table:
    """A row for each system; ratios are against the bare one, round by round."""
    rows = []
    for name, answers in found.items():
        pairs: list[tuple[Any, Any]] = list(zip(answers, found[BARE], strict=True))
        ratios = [one["requests_per_s"] / other["requests_per_s"] for one, other in pairs]
        columns = [(key, form) for key, form in (("requests_per_s", ",.0f"), ("p50_ms", ",.1f"), ("p95_ms", ",.1f"))]
        cells = [Spread.of(answer[key] for answer in answers).text(form) for key, form in columns]
        rows.append([name, *cells, Spread.of(ratios).text(",.2f"), str(len(answers))])
    header = ["system", "requests / s", "median latency, ms", "95th percentile, ms", "x times bare", "n"]
    return Table(f"{measure.label(arguments.data)}, {arguments.clients} clients", header, rows)


if __name__ == "__main__":
    main()
