"""A deployed endpoint of a synthetic shop to measure and to break: its processes, its store, and the verbs on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.kit.load import Request
from benchmarks.kit.measure import ROOT
from jobs.cli.context import Store
from jobs.cluster.local_head import running_head
from jobs.cluster.processes import members
from models.recommender.sample import Shop, write_sample

VERB_TIMEOUT_S = 600.0
PATH = "/v1/recommendations"


@dataclass
class Endpoint:
    """A store with a champion, which is served on a port."""

    store: Path
    port: int
    shop: Shop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def verb(self, *words: str, check: bool = True) -> dict[str, Any]:
        """Run a verb on the store; its JSON line with the seconds it took. Raises RuntimeError if it fails."""
        started = time.monotonic()
        done = subprocess.run(
            [*command(*words), "--store", str(self.store), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=VERB_TIMEOUT_S,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
        last = done.stdout.strip().splitlines()[-1:] or ["{}"]
        return {**json.loads(last[0]), "seconds": time.monotonic() - started, "returncode": done.returncode}

    def deploy(self, *, replicas: int) -> dict[str, Any]:
        """Deploy the champion with this number of replicas."""
        sizes = ("--min-replicas", str(replicas), "--max-replicas", str(replicas))
        return self.verb("deploy", "recommender", "--port", str(self.port), *sizes)

    def request(self, number: int) -> Request:
        """A request for one of the shop's regular users."""
        return Request(PATH, {"user_id": self.shop.regulars[number % len(self.shop.regulars)], "count": 10})

    def processes(self, name: str) -> list[Any]:
        """The processes (psutil's) of the store's cluster with `name` in that of their program; none if it is down."""
        info = running_head(Store(self.store))
        found = [] if info is None else members(Path(info.temp_dir))
        return [process for process in found if name in Path((process.cmdline() or [""])[0]).name]

    def kill(self, name: str, *, number: int | None = None) -> int:
        """SIGKILL processes of the cluster by name, all or the first `number`; returns how many there were."""
        chosen = self.processes(name)[:number]
        for process in chosen:
            process.kill()
        return len(chosen)

    def head_pid(self) -> int:
        """The root of the cluster's process tree."""
        info = running_head(Store(self.store))
        assert info is not None, "the cluster does not run"
        return info.pid


def command(*words: str) -> list[str]:
    """The command of a verb."""
    return [sys.executable, "-m", "jobs", *words]


def trained(work: Path, *, port: int, num_users: int, network: str = "transitions") -> Endpoint:
    """A store with prepared data and a champion, not yet deployed."""
    shop = write_sample(work / "raw", num_users=num_users)
    endpoint = Endpoint(work / "store", port, shop)
    endpoint.verb("prepare", "recommender", "--raw", str(shop.events), "--items", str(shop.items))
    endpoint.verb("train", "recommender", "--network", network)
    endpoint.verb("promote", "recommender", "--force", "--reason", "benchmark")
    return endpoint


@contextmanager
def served(endpoint: Endpoint, *, replicas: int) -> Iterator[subprocess.Popen[bytes]]:
    """Deploy, and keep the endpoint alive by `shopkeeper serve` in the foreground until the end."""
    try:
        endpoint.deploy(replicas=replicas)
        with (endpoint.store / "serve.log").open("ab") as log_file:
            yield subprocess.Popen(
                [*command("serve"), "--store", str(endpoint.store)], cwd=ROOT, stdout=log_file, stderr=log_file
            )
    finally:
        endpoint.verb("stop", check=False)  # ends what serves in the foreground too


def processor_seconds(processes: Iterable[Any]) -> float:
    """Processor time that processes (psutil's) have used so far."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)
