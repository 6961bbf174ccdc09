"""`shopkeeper pipeline` with the verbs themselves: from raw data to a champion, killed while it trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from jobs.cli.context import Context, Store, UsageFailure
from jobs.pipelines.records import Records
from jobs.pipelines.traits import TRAITS
from jobs.pipelines.upload import with_pipeline
from jobs.tracking.client import Tracking
from models.family import Family
from tests.conftest import CHECKOUT
from tests.test_plugins import install_toy

TIMEOUT_S = 300.0
NIGHTLY = """\
variables: {raw: visitors.csv, epochs: 400}
steps:
  - run: prepare toy
    flags: {raw: "${raw}"}
  - run: train toy
    flags: {epochs: "${epochs}", learning_rate: 0.1}
  - run: promote toy
    flags: {model: "${train.model}"}
  - run: evaluate toy
    if: promote.status == promoted
    flags: {model: "${promote.model}", bootstrap: 100}
  - run: erase --pending
"""


@pytest.fixture
def nightly(tmp_path: Path, toy_raw: Path) -> Path:
    """A pipeline in a folder with raw data and the toy family as an installed package."""
    site = tmp_path / "site"
    site.mkdir()
    install_toy(site)
    (tmp_path / "nightly.yaml").write_text(NIGHTLY, encoding="utf-8")
    return tmp_path / "nightly.yaml"


def start(nightly: Path, *flags: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{nightly.parent / 'site'}:{CHECKOUT}"}
    command = [sys.executable, "-m", "jobs", "pipeline", nightly.name, *flags, "--json"]
    return subprocess.Popen(
        command, cwd=nightly.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert out, err.decode()
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == process.returncode
    return found


@pytest.mark.ray
def test_a_pipeline_that_is_killed_while_it_trains_goes_on_with_the_same_run(nightly: Path, context: Context) -> None:
    first = start(nightly)
    wait_for(lambda: "epoch 2" in _log_of(context.store, "train"), first)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()

    done = finish(start(nightly, "--set", "epochs=400"))
    again = finish(start(nightly))

    steps = {one["id"]: one for one in done["steps"]}
    assert {name: one["status"] for name, one in steps.items()} == {
        "prepare": "unchanged",
        "train": "done",
        "promote": "done",
        "evaluate": "done",
        "erase": "done",
    }
    (run,) = Tracking(Context(context.store)).list_runs("toy")
    assert run.run_id == steps["train"]["results"]["run_id"]
    assert run.status == "FINISHED"
    resumed = Path(steps["train"]["log"]).read_text(encoding="utf-8")
    assert f"resuming run {run.run_id}" in resumed
    assert "epoch 1:" not in resumed
    for one in steps.values():
        assert set(TRAITS[one["verb"]].results) - {"metrics", "bundle"} <= set(one["results"]) or one["verb"] == "erase"
    assert [one["status"] for one in again["steps"]] == ["unchanged"] * 4 + ["done"]


def test_mistakes_are_reported_before_anything_runs(
    toy: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nightly.yaml"
    path.write_text(NIGHTLY.replace("learning_rate", "lerning_rate"), encoding="utf-8")

    code = main(["pipeline", str(path), "--set", f"raw={path}", "--store", str(tmp_path / "store")])

    assert code == 2
    assert f"{path}:6: steps[train].flags.lerning_rate: " in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_submitted_pipeline_is_checked_and_goes_along_with_the_code(toy: Family, tmp_path: Path) -> None:
    path, code = tmp_path / "nightly.yaml", tmp_path / "code"
    path.write_text(NIGHTLY, encoding="utf-8")
    code.mkdir()

    command = with_pipeline(["pipeline", str(path), "--set", "epochs=3", "--fresh"], code)

    assert command == ("pipeline", "submitted/nightly.yaml", "--set", "epochs=3", "--fresh")
    assert (code / "submitted" / "nightly.yaml").read_text(encoding="utf-8") == NIGHTLY
    assert with_pipeline(["pipeline", "/on/the/cluster.yaml"], code) == ("pipeline", "/on/the/cluster.yaml")
    assert with_pipeline(["train", "toy"], code) == ("train", "toy")
    with pytest.raises(UsageFailure, match="'many' is not an integer"):
        with_pipeline(["pipeline", str(path), "--set", "epochs=many"], code)


def test_a_submitted_pipeline_with_a_mistake_is_refused_before_the_cluster_is_asked(
    toy: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nightly.yaml"
    path.write_text(NIGHTLY.replace("promote toy", "promote tyo"), encoding="utf-8")

    code = main(["submit", "--address", "http://127.0.0.1:9", "pipeline", str(path)])

    assert code == 2
    assert f"{path}:7: steps[promote].run: unknown family 'tyo', did you mean toy?" in capsys.readouterr().err


def _log_of(store: Store, step: str) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in Records(store, "nightly").logs.glob(f"*-{step}-*.log"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
