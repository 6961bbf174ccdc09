"""The cluster files: valid for the pinned version of Ray, with token authentication, not open to the network."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shlex
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.consts import RAY_JOB_START_TIMEOUT_SECONDS_ENV_VAR

from jobs.__main__ import read
from jobs.cli.context import DependencyDown, Store, UsageFailure
from jobs.cluster import connection, head_environment, local_head
from jobs.serving.config import check_config
from models import FAMILIES
from serve.service import Settings

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "docs" / "kubernetes"
SUFFIXES = {"Gi": 1024**3, "Mi": 1024**2}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def ray_cluster_of(name: str) -> Any:
    spec = load(KUBERNETES / name)["spec"]
    return spec["rayClusterSpec"] if name == "rayjob.yaml" else spec["rayClusterConfig"]


def containers_of(started: Any) -> list[Any]:
    groups = [started["headGroupSpec"], *started["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_cluster_file_is_valid() -> None:
    config = prepare_config(load(ROOT / "cluster.yaml"))

    validate_config(config)
    assert set(config["available_node_types"]) == {"head", "driver", "cpu", "gpu", "gpus"}


def test_a_job_may_wait_a_week_for_its_driver_s_cpu() -> None:
    name = RAY_JOB_START_TIMEOUT_SECONDS_ENV_VAR
    command = " ".join(load(ROOT / "cluster.yaml")["head_start_ray_commands"])
    on_kubernetes = [containers_of(ray_cluster_of(file))[0]["env"] for file in ("rayjob.yaml", "rayservice.yaml")]

    assert f" {name}=604800 " in command
    assert [{each["name"]: each.get("value") for each in env}[name] for env in on_kubernetes] == 2 * ["604800"]
    assert load(ROOT / "deploy" / "compose.yaml")["services"]["head"]["environment"][name] == "604800"
    assert head_environment.DEFAULTS[name] == "604800"


@pytest.mark.parametrize("fault", ["misspelt", "wrong type", "no head"])
def test_an_invalid_cluster_file_is_rejected_by_ray(fault: str) -> None:
    config = copy.deepcopy(load(ROOT / "cluster.yaml"))
    match fault:
        case "misspelt":
            config["idle_timeout_minute"] = 3
        case "wrong type":
            config["max_workers"] = "many"
        case "no head":
            config["head_node_type"] = "boss"

    with pytest.raises(Exception, match=r"idle_timeout_minute|many|head_node_type"):
        validate_config(prepare_config(config))


def test_the_cluster_has_a_head_without_cpus_and_autoscaled_workers() -> None:
    config = load(ROOT / "cluster.yaml")
    types = config["available_node_types"]

    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 1
    for name in ("driver", "cpu", "gpu", "gpus"):
        assert types[name]["min_workers"] == 0 < types[name]["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_requires_the_token_and_uses_the_fast_proxy(commands: str) -> None:
    start = load(ROOT / "cluster.yaml")[commands][-1]

    for setting in ("RAY_AUTH_MODE=token", "RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_THROUGHPUT_OPTIMIZED=1"):
        assert setting in start
    assert "~/.ray/auth_token" in load(ROOT / "cluster.yaml")["file_mounts"]


def test_the_dashboard_of_the_cluster_listens_on_loopback_only() -> None:
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")

    assert "--dashboard-host=127.0.0.1" in text
    assert "0.0.0.0" not in text


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_a_kubernetes_cluster_has_a_token_the_pinned_ray_and_limits(name: str) -> None:
    content, started = load(KUBERNETES / name), ray_cluster_of(name)

    assert content["apiVersion"] == "ray.io/v1"
    assert content["kind"] == {"rayjob.yaml": "RayJob", "rayservice.yaml": "RayService"}[name]
    assert started["rayVersion"] == version("ray")
    assert started["authOptions"] == {"mode": "token"}
    for container in containers_of(started):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert _bytes(resources["limits"]["memory"]) >= 4 * 1024**3
        assert container["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_every_mounted_volume_exists(name: str) -> None:
    started = ray_cluster_of(name)

    for group in [started["headGroupSpec"], *started["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_kubernetes_service_has_a_valid_serve_config() -> None:
    config = yaml.safe_load(load(KUBERNETES / "rayservice.yaml")["spec"]["serveConfigV2"])

    check_config(config)
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    assert application["import_path"] == "serve.app:build"
    assert application["route_prefix"] == FAMILIES[application["name"]].route_prefix
    settings = Settings.model_validate(deployment["user_config"])
    assert settings.bundle.is_relative_to("/store")
    assert settings.keys is not None and settings.requires_keys, "it listens on every interface"


def test_the_kubernetes_service_has_cpus_for_all_its_replicas() -> None:
    spec = load(KUBERNETES / "rayservice.yaml")["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    (deployment,) = application["deployments"]
    (workers,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    cores = int(containers_of(spec["rayClusterConfig"])[1]["resources"]["limits"]["cpu"])

    needed = deployment["autoscaling_config"]["max_replicas"] * deployment["ray_actor_options"]["num_cpus"]
    assert needed <= workers["maxReplicas"] * cores


def test_the_kubernetes_job_runs_a_valid_command_line() -> None:
    spec = load(KUBERNETES / "rayjob.yaml")["spec"]

    words = shlex.split(spec["entrypoint"])
    invocation = read(words[3:])

    assert words[:3] == ["python", "-m", "jobs"]
    assert (invocation.verb, invocation.family_name) == ("train", "recommender")
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}}


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "nonsense", "ftp://a:3", "ray://host", "host:port"])
def test_an_invalid_address_is_a_usage_failure(address: str) -> None:
    with pytest.raises(UsageFailure, match=re.escape(address)):
        connection._checked_address(address)


def test_a_missing_cluster_is_a_dependency_that_is_down() -> None:
    with pytest.raises(DependencyDown, match="refused"):
        connection._checked_address("127.0.0.1:9")


def test_a_server_that_is_not_a_cluster_does_not_block_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"ray://127.0.0.1:{mute.getsockname()[1]}"

        with pytest.raises(DependencyDown, match="no reply"):
            connection._checked_address(address)


def test_a_recorded_cluster_whose_pid_was_reused_is_not_running(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.cluster.mkdir()
    info = local_head.ClusterInfo(
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:2",
        pid=os.getpid(),
        started_s=1.0,  # this process is younger
        temp_dir=str(tmp_path / "temp"),
        token_path=str(store.cluster / "token"),
        ports={},
    )
    (store.cluster / "cluster.json").write_text(json.dumps(dataclasses.asdict(info)))

    assert local_head.running_head(store) is None
    assert local_head.stop_head(store) is False
    assert not (store.cluster / "cluster.json").exists()


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)(Gi|Mi)", text)
    assert match, f"{text!r} has no known unit"
    return int(match[1]) * SUFFIXES[match[2]]
