"""The setup of a cluster's workers: each names its own cluster, for several may run on a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from jobs.cluster.connection import worker_setup

COMPARE = """
import os, sys
from pathlib import Path
import ray
from jobs.cli.context import Context, Store
from jobs.cluster.connection import connect

connect(Context(store=Store(Path(sys.argv[1]))))
named = ray.get(ray.remote(lambda: os.environ["RAY_ADDRESS"]).remote())
assert named == ray.get_runtime_context().gcs_address, named
"""


def test_the_setup_runs_before_our_packages_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = cloudpickle.dumps(worker_setup())  # type: ignore[no-untyped-call]
    monkeypatch.setitem(sys.modules, "jobs.cluster.connection", None)

    assert callable(cloudpickle.loads(sent))


@pytest.mark.ray
def test_a_worker_names_the_cluster_it_belongs_to(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", COMPARE, tmp_path], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr[-3000:]
