"""Where training workers run: on the nodes that a cluster has, or that it can start."""

from __future__ import annotations

import pytest

from jobs.cli.context import UsageFailure
from jobs.cluster import connection
from jobs.cluster.node_types import NodeType
from jobs.training import placement
from jobs.training.placement import Nodes, TrainingResources, Workers


def cluster(
    monkeypatch: pytest.MonkeyPatch, *, live: list[dict[str, float]], types: list[NodeType], free: float = 0
) -> None:
    """A connected cluster with these nodes, which can start nodes of these types."""
    monkeypatch.setattr(connection, "may_scale", lambda: bool(types))
    monkeypatch.setattr(connection, "node_resources", lambda: live)
    monkeypatch.setattr(connection, "free_resources", lambda: {"CPU": free})
    monkeypatch.setattr(placement, "node_types", lambda: types)


@pytest.mark.parametrize(
    ("text", "workers"), [("1", Workers(1)), ("12", Workers(12)), ("2:8", Workers(8, 2)), ("3:3", Workers(3, 3))]
)
def test_workers_are_a_number_or_a_range(text: str, workers: Workers) -> None:
    assert Workers.parse(text) == workers


@pytest.mark.parametrize("text", ["0", "-1", "two", "", "2:", ":2", "3:2", "0:2", "1:2:3", "1.5"])
def test_other_workers_are_refused_with_the_value(text: str) -> None:
    with pytest.raises(ValueError, match=f"--workers '{text}' is neither"):
        Workers.parse(text)


def test_a_cluster_without_nodes_has_room_for_what_it_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[{"memory": 1e9}], types=[NodeType("cpu", {"CPU": 8.0}, 4)])

    # One CPU of each node stays free for drivers and controllers.
    assert Nodes.of_cluster().allocate(Workers(2), gpu=False) == TrainingResources(2, 7)
    assert Nodes.of_cluster().allocate(Workers(8), gpu=False) == TrainingResources(8, 3)


def test_nodes_with_one_cpu_hold_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[], types=[NodeType("cpu", {"CPU": 1.0}, 2)])

    assert Nodes.of_cluster().allocate(Workers(2), gpu=False) == TrainingResources(2, 1)


def test_a_gpu_worker_gets_the_cpus_of_its_share_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    types = [NodeType("cpu", {"CPU": 64.0}, 4), NodeType("gpus", {"CPU": 33.0, "GPU": 4.0}, 2)]
    cluster(monkeypatch, live=[], types=types)

    assert Nodes.of_cluster().allocate(Workers(8), gpu=True) == TrainingResources(8, 8, gpu=True)


def test_what_no_node_type_can_hold_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[], types=[NodeType("cpu", {"CPU": 2.0}, 2)])

    with pytest.raises(UsageFailure, match=r"5 workers .* the cluster can have 4 CPUs and 0 GPUs; use 1 to 4 workers"):
        Nodes.of_cluster().allocate(Workers(5), gpu=False)
    with pytest.raises(UsageFailure, match=r"1 worker with 1 CPU and a GPU each: .* or raise max_workers"):
        Nodes.of_cluster().allocate(Workers(1), gpu=True)


def test_elastic_workers_need_room_for_the_smallest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[], types=[NodeType("cpu", {"CPU": 2.0}, 2)])

    assert Nodes.of_cluster().allocate(Workers(9, 2), gpu=False) == TrainingResources(4, 1, min_workers=2)
    with pytest.raises(UsageFailure):
        Nodes.of_cluster().allocate(Workers(9, 5), gpu=False)


def test_a_cluster_that_does_not_scale_is_divided_as_far_as_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[{"CPU": 8.0}, {"CPU": 4.0}], types=[], free=6)

    assert Nodes.of_cluster().allocate(Workers(1), gpu=False).cpus_per_worker == 6
    assert Nodes.of_cluster().allocate(Workers(3), gpu=False).cpus_per_worker == 2
    with pytest.raises(UsageFailure, match="the cluster has 12 CPUs"):
        Nodes.of_cluster().allocate(Workers(13), gpu=False)


def test_slots_are_counted_node_by_node() -> None:
    nodes = Nodes([{"CPU": 7.0}, {"CPU": 4.0, "GPU": 1.0}, {}])

    assert [nodes.slots(cpus) for cpus in (1, 3, 5, 8)] == [11, 3, 1, 0]
    assert [nodes.slots(cpus, gpu=1.0) for cpus in (1, 4, 5)] == [1, 1, 0]


def test_workers_may_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, live=[{"CPU": 16.0, "GPU": 1.0}], types=[], free=16)

    assert Nodes.of_cluster().allocate(Workers(5), gpu=0.2).per_worker == {"CPU": 3.0, "GPU": 0.2}
    with pytest.raises(UsageFailure, match=r"6 workers with 1 CPU and 0\.2 of a GPU each"):
        Nodes.of_cluster().allocate(Workers(6), gpu=0.2)
