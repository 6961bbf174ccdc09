"""A cluster that scales from no nodes: a training waits for its nodes, and outlives one that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.context import Store
from tests.kit.fake_cluster import FakeCluster, fake_cluster, shipped_config
from tests.kit.polling import until
from tests.kit.shop import prepare_shop

PATIENCE_S = 240.0
"""Ten times what each step takes, as the machine may be loaded."""
TRAINING = ("--network", "transformer", "--dim", "8", "--max-length", "8", "--patience", "0", "--epochs", "40")

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    """The node types of cluster.yaml with two CPUs each, and no node."""
    with fake_cluster(shipped_config(cpus=2)) as started:
        yield started


def start(cluster: FakeCluster, store: Store, log: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", *words, "--store", str(store.root), "--address", cluster.address, "--json"]
    with log.open("w", encoding="utf-8") as errors:
        return subprocess.Popen(
            command,
            env={**os.environ, **cluster.environment()},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def result(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, json.loads(out.strip().splitlines()[-1])


def test_more_workers_than_all_node_types_can_hold_are_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    prepare_shop(store)

    code, line = result(start(cluster, store, tmp_path / "log", "train", "recommender", "--workers", "99"))

    assert code == 2
    assert "cannot allocate 99 workers with 1 CPU each: the cluster can have 32 CPUs and 12 GPUs" in line["error"]
    assert not cluster.raylets()


def test_a_training_starts_its_nodes_and_outlives_one(cluster: FakeCluster, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    data = prepare_shop(store)
    log = tmp_path / "log"

    training = start(cluster, store, log, "train", "recommender", "--workers", "2", *TRAINING)
    until(lambda: "epoch 2:" in log.read_text("utf-8"), within_s=PATIENCE_S)
    (first, *_) = cluster.raylets()
    cluster.kill_node(first)
    code, line = result(training)

    assert code == 0, log.read_text("utf-8")[-3000:]
    assert line["epochs"] == 40
    assert first not in cluster.raylets()
    assert data.path.is_dir()
