"""`make cluster-demo`: the node types of cluster.yaml take every verb from no nodes to the answer of the endpoint.

For each node that Ray's autoscaler asks for, a raylet starts on this machine. Then the same again, with a node killed
(SIGKILL to its raylet) while each step runs. `--steps` and `--kill` choose some.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cli.context import Store
from jobs.cluster.ports import free_port
from jobs.serving.access import internal_key
from models.recommender.sample import write_sample
from tests.kit.fake_cluster import FakeCluster, fake_cluster, shipped_config

STEPS = ("prepare", "train", "sweep", "evaluate", "promote", "predict", "deploy")
STEP_S = 600.0
BEGUN = {
    "prepare": "I connecting",
    "train": "epoch 2:",
    "sweep": "epoch 2:",
    "evaluate": "scoring",
    "promote": "scoring",
    "predict": "Running entrypoint for job shopkeeper-predict-",
    "deploy": "replicas:",
}
"""What the log of a step says when it is at its work; a node is killed then."""
TINY = ("--dim", "16", "--max-length", "20", "--epochs", "4", "--patience", "0")
FAMILY = "recommender"
log = logging.getLogger("cluster-demo")


@dataclass
class Course:
    """One walk through the steps, on a cluster and a store of its own."""

    cluster: FakeCluster
    root: Path
    kills: bool
    found: dict[str, Any] = field(default_factory=dict)
    """The JSON line of each step."""
    lines: list[str] = field(default_factory=list)
    """A line for each step, for the table at the end."""

    @property
    def store(self) -> Path:
        """The store, which every node sees."""
        return self.root / "store"

    def run(self, steps: Sequence[str]) -> None:
        """The steps in order; raises RuntimeError at the first that fails."""
        shop = write_sample(self.root / "shop", num_users=400, num_items=120, num_events=12_000, seed=3)
        for step in steps:
            command = self._command(step, shop.events)
            began, nodes = time.monotonic(), len(self.cluster.raylets())
            killed: list[str] = []
            ended = threading.Event()
            killer = threading.Thread(target=self._kill_a_node, args=(step, killed, ended))
            if self.kills:
                killer.start()
            try:
                self.found[step] = self._shopkeeper(*command)
            finally:
                ended.set()
                if self.kills:
                    killer.join()
            took = time.monotonic() - began
            note = f", node {killed[0][-5:]} killed" if killed else ", nothing killed" if self.kills else ""
            line = (
                f"{step}: {self.found[step]['status']} in {took:.0f} s, {nodes} to {len(self.cluster.raylets())} nodes"
            )
            self._say(line + note)
            if step == "deploy":
                self._ask()

    def _command(self, step: str, log: Path) -> tuple[str, ...]:
        on = ("--entrypoint-resources", "driver=1", "--address", self.cluster.dashboard_url)
        submit = ("submit", "--retries", "3", *on)
        run = f"runs:/{self.found['train']['run_id']}" if "train" in self.found else ""
        match step:
            case "prepare":
                return (*submit, "prepare", FAMILY, "--raw", str(log))
            case "train":
                return (*submit, "train", FAMILY, "--network", "transformer", "--workers", "2", *TINY)
            case "sweep":
                return (*submit, "sweep", FAMILY, "--trials", "4", "--fix", "network=transformer", *TINY)
            case "evaluate":
                return (*submit, "evaluate", FAMILY, "--model", run, "--workers", "2", "--bootstrap", "100")
            case "promote":
                return (*submit, "promote", FAMILY, "--model", run, "--workers", "2")
            case "predict":
                requests = self.root / "requests.jsonl"
                requests.write_text("".join(json.dumps({"user_id": f"u{n}"}) + "\n" for n in range(200)))
                out = self.root / "answers"
                return (*submit, "predict", FAMILY, "--input", str(requests), "--output", str(out), "--workers", "2")
            case _:
                self.found["port"] = free_port()
                address = ("--address", self.cluster.dashboard_url)
                return ("deploy", FAMILY, *address, "--port", str(self.found["port"]), "--min-replicas", "1")

    def _shopkeeper(self, *words: str) -> dict[str, Any]:
        """Run the command line; returns its JSON line."""
        command = [sys.executable, "-m", "jobs", *words, "--store", str(self.store), "--json"]
        if words[0] == "submit":
            command = [sys.executable, "-m", "jobs", words[0], "--store", str(self.store), "--json", *words[1:]]
        path = self.root / f"{len(self.lines)}.log"
        with path.open("w", encoding="utf-8") as errors:
            ended = subprocess.run(
                command,
                env={**os.environ, **self.cluster.environment()},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=STEP_S,
                check=False,
            )
        if ended.returncode:
            said = f"{ended.stdout}\n{path.read_text(encoding='utf-8')[-4000:]}"
            raise RuntimeError(f"{' '.join(words)}: exit code {ended.returncode}\n{said}")
        line: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
        return line

    def _kill_a_node(self, step: str, killed: list[str], ended: threading.Event) -> None:
        """Once there is a node and the step is at its work; the node that came last."""
        path = self.root / f"{len(self.lines)}.log"
        while not (self.cluster.raylets() and path.exists() and BEGUN[step] in path.read_text(encoding="utf-8")):
            if ended.wait(0.2):
                return
        node = sorted(self.cluster.raylets())[-1]
        self.cluster.kill_node(node)
        killed.append(node)

    def _ask(self) -> None:
        key = internal_key(Store(self.store))
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.found['port']}/v1/recommendations",
            data=json.dumps({"user_id": "u1", "count": 3}).encode(),
            headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = json.load(answer)
        assert content["items"], content
        self._say(f"answer of the endpoint: {json.dumps(content)[:160]}")

    def _say(self, line: str) -> None:
        self.lines.append(line)
        log.info("%s", line)


def main() -> int:
    """Both courses, or one; exit code 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--kill", choices=("no", "only", "both"), default="both")
    parser.add_argument("--keep", action="store_true", help="keep the store and the logs of the steps")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for kills in {"no": [False], "only": [True], "both": [False, True]}[arguments.kill]:
        root = Path(tempfile.mkdtemp(prefix="cluster-demo-"))
        log.info("%s, in %s", "a node killed in each step" if kills else "from no nodes", root)
        try:
            with fake_cluster(shipped_config(cpus=2)) as cluster:
                Course(cluster, root, kills).run(arguments.steps)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            log.error("%s", error)
            return 1
        if not arguments.keep:
            shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
