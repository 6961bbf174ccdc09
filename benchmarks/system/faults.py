"""Faults of an endpoint under load: what fails, for how long, and whether it comes back by itself.

A synthetic shop is deployed with two replicas and kept alive by `shopkeeper serve`. Each case sends requests at a
constant rate, does its damage after some seconds, and goes on until the endpoint has recovered and some seconds more.
Failed are requests that were not answered with a status below 400, and those of them whose one retry failed too. The
outage is the longest time between two good answers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.kit import measure
from benchmarks.kit.endpoint import Endpoint, served, trained
from benchmarks.kit.load import Load, Request, summary
from benchmarks.kit.page import Spread, Table, write_page

Case = Callable[[Endpoint, ExitStack], dict[str, Any] | None]
WARM_S = 5.0
NUM_HALF_OPEN = 4_200
NUM_SLOW_BODIES = 200
NUM_BIG = 20
BIG_VALUES = 40_000
"""Filter values of a request of about 1 MB."""


def main() -> None:
    """Run the cases and write the page."""
    measure.use_environment()
    parser = measure.flags(__doc__, synthetic=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--port", type=int, default=8390)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--wait", type=float, default=75.0, help="seconds to wait for recovery at most")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 1
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.cases}
    with measure.workspace(arguments) as work:
        endpoint = trained(work, port=arguments.port, num_users=arguments.users)
        with served(endpoint, replicas=2):
            for _ in range(arguments.repeats):
                for name in arguments.cases:
                    result = run_case(endpoint, CASES[name], rate=arguments.rate, wait_s=arguments.wait)
                    print(f"{name}: {result}", file=sys.stderr)
                    found[name].append(result)
    write_page("faults", __doc__, arguments, [tabulate(found)], {"measured": found})


def run_case(endpoint: Endpoint, inject: Case, *, rate: float, wait_s: float) -> dict[str, Any]:
    """Load, damage, recovery; the numbers since the damage."""
    with ExitStack() as repairs, Load(endpoint.url, endpoint.request, rate) as load:
        time.sleep(WARM_S)
        before = summary(load.sent, since_s=0.0)
        assert not before["failed"], f"the endpoint failed before the damage: {before}"
        since = time.monotonic()
        details = inject(endpoint, repairs) or {}
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not _has_recovered(load, since):
            time.sleep(0.5)
        details["status_s"] = endpoint.verb("status", check=False)["seconds"]
        time.sleep(WARM_S)
        has_recovered = _has_recovered(load, since)  # before the repairs
    _wait_until_healthy(endpoint, wait_s)
    return {**summary(load.sent, since_s=since), "has_recovered": has_recovered, **details}


def _has_recovered(load: Load, since: float) -> bool:
    """Whether all requests of the last seconds were answered, at the latest some seconds after the damage."""
    now = time.monotonic()
    last = [one for one in list(load.sent) if one.at_s > max(since + 1.0, now - WARM_S)]
    return now > since + 2 * WARM_S and len(last) > load.rate * WARM_S / 2 and all(one.is_good for one in last)


def _wait_until_healthy(endpoint: Endpoint, wait_s: float) -> None:
    """Wait until both replicas are back, so that the next case begins from there."""
    deadline = time.monotonic() + wait_s
    while len(endpoint.processes("ServeReplica")) < 2 and time.monotonic() < deadline:
        time.sleep(1.0)


def kill_replica(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """SIGKILL one of two replicas."""
    return {"killed": endpoint.kill("ServeReplica", number=1)}


def kill_proxy(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """SIGKILL HAProxy."""
    return {"killed": endpoint.kill("haproxy")}


def kill_gcs(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """SIGKILL the GCS, after which every process of Ray ends."""
    return {"killed": endpoint.kill("gcs_server")}


def kill_head(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """SIGKILL the root of the cluster's process tree."""
    os.kill(endpoint.head_pid(), signal.SIGKILL)
    return {"killed": 1}


def half_open(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """Connections that send half a header and wait."""
    return _hold_open(endpoint, repairs, NUM_HALF_OPEN, b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nX-")


def slow_bodies(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """Connections that send a header, one byte of a body, and wait."""
    lines = ("POST /v1/recommendations HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 1000")
    return _hold_open(endpoint, repairs, NUM_SLOW_BODIES, "\r\n".join((*lines, "", "{")).encode())


def big_filters(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """Twenty requests at once, each of about 1 MB of filter values."""
    body = {"user_id": "u1", "filter": {"brand": [f"no such brand {number:05}" for number in range(BIG_VALUES)]}}
    with Load(endpoint.url, lambda number: Request("/v1/recommendations", body), rate=100.0) as load:
        time.sleep(NUM_BIG / load.rate)
    return {"big_statuses": sorted({str(one.status) for one in load.sent})}


def broken_features(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """Overwrite the feature store in place with something else; it is put back at the end."""
    path = endpoint.store / "recommender" / "features.sqlite"
    kept = path.with_suffix(".kept")
    shutil.copy2(path, kept)
    path.write_bytes(b"not a database" * 1000)
    repairs.callback(shutil.copy2, kept, path)
    return {}


def training_beside(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """A training on the same machine."""
    words = [sys.executable, "-m", "jobs", "train", "recommender", "--network", "transformer", "--epochs", "1"]
    training = subprocess.Popen(
        [*words, "--store", str(endpoint.store)], cwd=measure.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    repairs.callback(training.wait)
    repairs.callback(training.terminate)
    time.sleep(20.0)
    return {}


def deploy_again(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """A later deploy of the same version."""
    return {"verb_s": endpoint.deploy(replicas=2)["seconds"]}


def scale_down(endpoint: Endpoint, repairs: ExitStack) -> dict[str, Any]:
    """From two replicas to one; back to two at the end."""
    repairs.callback(endpoint.deploy, replicas=2)
    return {"verb_s": endpoint.deploy(replicas=1)["seconds"]}


def _hold_open(endpoint: Endpoint, repairs: ExitStack, number: int, sent: bytes) -> dict[str, Any]:
    opened = 0
    for _ in range(number):
        connection = repairs.enter_context(socket.socket())
        connection.settimeout(1.0)
        try:
            connection.connect(("127.0.0.1", endpoint.port))
            connection.send(sent)
        except OSError:
            continue
        opened += 1
    return {"opened": opened}


CASES: dict[str, Case] = {
    "one of two replicas killed": kill_replica,
    "proxy killed": kill_proxy,
    "GCS killed": kill_gcs,
    "head killed": kill_head,
    "4,200 half-open headers": half_open,
    "200 slow bodies": slow_bodies,
    "20 requests of 1 MB": big_filters,
    "feature store overwritten": broken_features,
    "training beside": training_beside,
    "deploy again": deploy_again,
    "scale down to one replica": scale_down,
}


def tabulate(found: dict[str, list[dict[str, Any]]]) -> Table:
    """A row for each case."""
    rows = []
    for name, results in found.items():
        columns = [
            Spread.of(result[key] for result in results).text(form)
            for key, form in (
                ("requests", ",.0f"),
                ("failed", ",.0f"),
                ("failed_after_retry", ",.0f"),
                ("outage_s", ",.1f"),
                ("recovered_s", ",.1f"),
                ("p99_ms", ",.0f"),
                ("status_s", ",.1f"),
            )
        ]
        recovered = f"{sum(result['has_recovered'] for result in results)} of {len(results)}"
        rows.append([name, *columns, recovered])
    header = ["case", "requests", "failed", "failed after a retry", "outage, s", "last failure after, s", "p99, ms"]
    return Table("Faults", [*header, "`status` takes, s", "recovered"], rows)


if __name__ == "__main__":
    main()
