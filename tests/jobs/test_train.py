"""Training in this process and on a Ray cluster: lost workers, Ctrl-C and invalid resource requests."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs import sweep, train
from jobs.cli.context import Context, Failure, UsageFailure
from jobs.tracking.client import Tracking
from jobs.tracking.runs import open_run, opened, read_plan
from jobs.train import Options
from jobs.training import alone
from jobs.training.placement import Nodes, Workers
from models import bundle
from models.family import Family
from models.prepared import Prepared
from tests.conftest import CHECKOUT
from tests.kit import toy as toy_module
from tests.kit.register import TOY

COMMAND = (
    "import sys; from tests.kit.register import register; register(); from jobs.__main__ import main; sys.exit(main())"
)


def with_loss(change: Any) -> Any:
    """The toy family with its loss passed through `change(network, loss)`; works in other processes too."""

    def build(config: Any, schema: Any) -> Any:
        network: Any = TOY.build(config, schema)
        network.calls = 0
        return network

    def loss(network: Any, batch: Tensor) -> Any:
        network.calls += 1
        return change(network, TOY.loss(network, batch))

    return dataclasses.replace(TOY, build=build, loss=loss)


def steps_logged(context: Context, run_id: str, metric: str) -> list[int]:
    """The steps at which a metric was logged, including duplicates."""
    tracking = Tracking(context)
    with tracking.reached():
        return sorted(point.step for point in tracking.client.get_metric_history(run_id, metric))


@pytest.mark.ray
def test_a_killed_worker_neither_fails_the_run_nor_repeats_an_epoch(
    ray_cluster: None, toy_data: Prepared, context: Context, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"

    def kill_once_in_the_second_epoch(network: Any, loss: Tensor) -> Tensor:
        if network.calls == 13 and not killed.exists() and torch.distributed.get_rank() == 1:
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    config = toy_module.Config(epochs=4, learning_rate=0.03)
    outcome = train.run(context, with_loss(kill_once_in_the_second_epoch), Options(workers="2"), config)

    assert killed.exists()
    assert outcome.run_id is not None
    assert steps_logged(context, outcome.run_id, "val_accuracy") == [0, 1, 2, 3, 4]
    info = Tracking(context).run_info(outcome.run_id)
    assert (info.status, info.tags["world_size"], info.params["learning_rate"]) == ("FINISHED", "2", "0.03")
    downloaded = Tracking(context).download(f"runs:/{outcome.run_id}/bundle", tmp_path / "download")
    assert bundle.load(downloaded, TOY).metrics["val_accuracy"] == outcome.metrics["val_accuracy"] > 0.6


@pytest.mark.ray
def test_a_diverging_run_fails_with_a_remedy(ray_cluster: None, toy_data: Prepared, context: Context) -> None:
    broken = with_loss(lambda network, loss: loss * math.nan)

    with pytest.raises(Failure, match="--learning-rate") as failure:
        train.run(context, broken, Options(), toy_module.Config())

    assert failure.value.exit_code == 1
    assert Tracking(context).run_info(failure.value.details["resume"]).status == "FAILED"


def started(context: Context, *flags: str) -> subprocess.Popen[str]:
    """`train toy` in a process of its own that knows of no cluster."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "toy", "--store", str(context.store.root), "--json", *flags],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")},
    )


def test_one_worker_on_this_machine_trains_without_a_cluster(toy_data: Prepared, context: Context) -> None:
    output, errors = started(context, "--epochs", "2").communicate(timeout=120)

    said = json.loads(output.splitlines()[-1])
    assert "training in this process" in errors
    assert not (context.store.run_directory("toy", said["run_id"]) / "ray").exists()
    assert steps_logged(context, said["run_id"], "val_accuracy") == [0, 1, 2]
    info = Tracking(context).run_info(said["run_id"])
    assert (info.status, info.tags["world_size"]) == ("FINISHED", "1")


def test_a_killed_process_can_be_resumed_and_repeats_no_epoch(toy_data: Prepared, context: Context) -> None:
    process = started(context, "--epochs", "20", "--patience", "0")
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 2:" in line:
            process.kill()
            break
    process.communicate(timeout=60)
    run_id = Tracking(context).list_runs("toy")[0].run_id

    output, errors = started(context, "--resume", run_id).communicate(timeout=120)

    assert "resuming after epoch" in errors
    assert json.loads(output.splitlines()[-1])["epochs"] == 20
    assert steps_logged(context, run_id, "val_accuracy") == list(range(21))


def test_a_run_at_which_a_process_is_at_work_is_not_resumed(toy_data: Prepared, context: Context) -> None:
    config = toy_module.Config()
    plan, _ = open_run(context, TOY, name="a run", config=config, options=Options(), tags={})
    stored = read_plan(context, TOY, config=config, options=Options(resume=plan.run_id))
    settings: dict[str, Any] = {"name": "a run", "config": config, "options": stored.options, "tags": {}}

    with opened(context, TOY, stored, **settings):
        output, _ = started(context, "--resume", plan.run_id).communicate(timeout=120)

    assert "another process is at work on the run" in json.loads(output.splitlines()[-1])["error"]


def test_train_does_not_resume_a_sweep(toy_data: Prepared, context: Context) -> None:
    config = toy_module.Config()
    plan, _ = open_run(context, TOY, name="a sweep", config=config, options=sweep.Options(), tags={})

    with pytest.raises(UsageFailure, match=f"`shopkeeper sweep toy --resume {plan.run_id}` resumes it"):
        train.run(context, TOY, Options(resume=plan.run_id), config)


def test_an_error_in_this_process_ends_the_run_as_failed(
    toy_data: Prepared, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: Any, loss: Tensor) -> Tensor:
        raise RuntimeError("a mistake in the network")

    monkeypatch.setattr("jobs.cluster.connection.is_there", lambda context: False)
    with pytest.raises(Failure, match="training failed: a mistake in the network") as failure:
        train.run(context, with_loss(fail), Options(), toy_module.Config())

    assert Tracking(context).run_info(failure.value.details["run_id"]).status == "FAILED"


@pytest.mark.parametrize(("quota", "expected"), [("max 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("", 4)])
def test_threads_are_as_many_as_a_container_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota, encoding="ascii")
    monkeypatch.setattr(alone, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)

    assert alone.num_processors() == expected


@pytest.mark.ray
def test_ctrl_c_exits_130_and_the_run_can_be_resumed(
    ray_cluster: None, toy_data: Prepared, context: Context, toy: Family
) -> None:
    process = started(context, "--epochs", "20", "--patience", "0")
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "epoch 2:" in line:
            process.send_signal(signal.SIGINT)
            break
    output, rest = process.communicate(timeout=60)

    assert process.returncode == 130, "".join(seen) + rest
    said = json.loads(output.splitlines()[-1])
    run_id = said["error"].rpartition("--resume ")[2].split()[0]
    assert said["run_id"] == run_id
    assert Tracking(context).run_info(run_id).status == "KILLED"
    outcome = train.run(context, toy, Options(resume=run_id), toy_module.Config())
    assert outcome.details["epochs"] == 20
    assert steps_logged(context, run_id, "val_accuracy") == list(range(21))


@pytest.mark.ray
@pytest.mark.parametrize("options", [Options(workers="3"), Options(gpu=True), Options(workers="3:4")])
def test_a_request_beyond_the_cluster_s_resources_is_rejected(
    ray_cluster: None, toy: Family, toy_data: Prepared, context: Context, options: Options
) -> None:
    with pytest.raises(UsageFailure, match=r"cannot allocate .* the cluster has 2 CPUs and 0 GPUs") as failure:
        train.run(context, toy, options, None)

    assert failure.value.exit_code == 2
    assert Tracking(context).list_runs("toy") == []


@pytest.mark.ray
def test_one_worker_gets_all_cpus_of_the_cluster(ray_cluster: None) -> None:
    assert Nodes.of_cluster().allocate(Workers(1), gpu=False).cpus_per_worker == 2
    assert Nodes.of_cluster().allocate(Workers(2), gpu=False).cpus_per_worker == 1


def test_a_run_is_resumed_only_with_its_original_settings(toy: Family, toy_data: Prepared, context: Context) -> None:
    from jobs.tracking.runs import open_run

    config = toy_module.Config(epochs=7)
    plan, _ = open_run(context, toy, name="mine", config=config, options=Options(workers="2"), tags={})

    again = read_plan(context, toy, config=toy_module.Config(), options=Options(resume=plan.run_id))

    assert (again.config, again.options.workers, again.data) == (config, "2", toy_data)
    with pytest.raises(UsageFailure, match=r"--epochs 8 differs from run .*, where it is 7; omit"):
        read_plan(context, toy, config=toy_module.Config(epochs=8), options=Options(resume=plan.run_id))
    with pytest.raises(UsageFailure, match="--workers 3 differs"):
        read_plan(context, toy, config=toy_module.Config(), options=Options(resume=plan.run_id, workers="3"))
    with pytest.raises(UsageFailure, match=f"no run 'other' .* {plan.run_id}"):
        read_plan(context, toy, config=toy_module.Config(), options=Options(resume="other"))
