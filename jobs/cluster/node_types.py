"""The types of nodes that an autoscaling cluster can start, and how many of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.cli.context import DependencyDown

UNLIMITED = 1000
"""Nodes that stand for no limit: Ray's -1."""
HEAD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class NodeType:
    """A type of node of an autoscaling cluster."""

    name: str
    resources: Mapping[str, float]
    """Of one node, e.g. {"CPU": 8.0, "GPU": 1.0}."""
    max_nodes: int


def node_types() -> list[NodeType]:
    """The types of nodes of the connected cluster that have resources; empty if it does not scale.

    Raises DependencyDown if its head runs no task.
    """
    import ray
    import yaml

    try:
        published, text = ray.get(_read_on_head().remote(), timeout=HEAD_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        raise DependencyDown(
            f"the head of the cluster did not run a task within {HEAD_TIMEOUT_S:g} s; look at `ray status`"
        ) from None
    if published:
        return of_groups(published)
    return of_file(yaml.safe_load(text)) if text else []


def of_groups(groups: Iterable[tuple[str, Mapping[str, float], int]]) -> list[NodeType]:
    """The node groups that the second autoscaler publishes: (name, resources of a node, largest number or -1)."""
    return _with_resources(
        NodeType(name, {each: float(amount) for each, amount in resources.items()}, UNLIMITED if count < 0 else count)
        for name, resources, count in groups
    )


def of_file(config: Mapping[str, Any]) -> list[NodeType]:
    """The node types of a cluster file, such as cluster.yaml."""
    limit = int(config.get("max_workers", UNLIMITED))
    found = []
    for name, node_type in config.get("available_node_types", {}).items():
        resources = {each: float(amount) for each, amount in (node_type.get("resources") or {}).items()}
        is_head = name == config.get("head_node_type")
        found.append(NodeType(name, resources, 1 if is_head else min(int(node_type.get("max_workers", limit)), limit)))
    return _with_resources(found)


def _with_resources(found: Iterable[NodeType]) -> list[NodeType]:
    return [each for each in found if each.max_nodes and any(each.resources.values())]


def _read_on_head() -> Any:
    """A task on the head: what the second autoscaler published, and the file of the first.

    The first one publishes nothing, and only its own command line names its file.
    """
    import ray

    @ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=3)
    def read() -> tuple[list[tuple[str, dict[str, float], int]], str | None]:  # nested: Ray sends its code
        import pathlib

        import ray
        from ray._private.state import state

        config = state.get_cluster_config()
        if config is not None:
            groups = config.node_group_configs
            return [(each.name, dict(each.resources), each.max_count) for each in groups], None
        own = f"--gcs-address={ray.get_runtime_context().gcs_address}"
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has ended
            files = [word.removeprefix("--autoscaling-config=") for word in words if "--autoscaling-config=" in word]
            if files and own in words:
                return [], pathlib.Path(files[0]).expanduser().read_text(encoding="utf-8")
        return [], None

    return read
