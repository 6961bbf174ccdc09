"""What an autoscaling cluster can have, from either autoscaler of Ray."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from jobs.cli.context import DependencyDown
from jobs.cluster import node_types as module
from jobs.cluster.node_types import UNLIMITED, NodeType, of_file, of_groups
from tests.conftest import CHECKOUT


def test_the_types_of_the_cluster_file_are_read_with_their_limits() -> None:
    types = {each.name: each for each in of_file(yaml.safe_load((CHECKOUT / "cluster.yaml").read_text("utf-8")))}

    assert types["cpu"] == NodeType("cpu", {"CPU": 8.0}, 8)
    assert types["gpu"].resources == {"CPU": 8.0, "GPU": 1.0}
    assert "head" not in types


def test_no_type_has_more_nodes_than_the_cluster() -> None:
    config = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "many": {"resources": {"CPU": 2}, "max_workers": 10},
            "unlimited": {"resources": {"CPU": 1}},
            "none": {"resources": {"CPU": 64}, "max_workers": 0},
            "empty": {"resources": {}},
        },
    }

    assert {each.name: each.max_nodes for each in of_file(config)} == {"head": 1, "many": 3, "unlimited": 3}


def test_the_second_autoscaler_s_groups_may_have_no_limit() -> None:
    groups = [("head", {"CPU": 0}, 1), ("workers", {"CPU": 8, "memory": 10}, -1), ("off", {"CPU": 8}, 0)]

    assert of_groups(groups) == [NodeType("workers", {"CPU": 8.0, "memory": 10.0}, UNLIMITED)]


@pytest.mark.ray
def test_a_cluster_of_one_process_does_not_scale(ray_cluster: None) -> None:
    assert module.node_types() == []


@pytest.mark.ray
def test_a_head_that_runs_no_task_is_a_dependency_that_is_down(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    @ray.remote(num_cpus=0, resources={"nowhere": 1})
    def never() -> Any:
        return [], None

    monkeypatch.setattr(module, "_read_on_head", lambda: never)
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.5)

    with pytest.raises(DependencyDown, match=r"the head of the cluster did not run a task within 0\.5 s"):
        module.node_types()
