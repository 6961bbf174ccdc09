"""Where training workers run, and what each reserves: on the nodes that a cluster has or can start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.cli.context import UsageFailure, log
from jobs.cluster import connection
from jobs.cluster.node_types import node_types


@dataclass(frozen=True)
class TrainingResources:
    """The number of training workers and what each reserves on the cluster."""

    num_workers: int = 1
    """Elastic training: the largest number."""
    cpus_per_worker: int = 1
    gpu: float = 0.0
    """GPUs of each worker; a share of one lets several workers use it together."""
    min_workers: int | None = None
    """Elastic training: the smallest number; None for exactly `num_workers`."""

    @property
    def elastic(self) -> tuple[int, int] | None:
        """The smallest and the largest number of workers, if they differ."""
        return None if self.min_workers in (None, self.num_workers) else (self.min_workers or 1, self.num_workers)

    @property
    def per_worker(self) -> dict[str, float]:
        """What Ray reserves for each worker."""
        return {"CPU": float(self.cpus_per_worker), **({"GPU": float(self.gpu)} if self.gpu else {})}

    def __str__(self) -> str:
        some = str(self.num_workers) if self.min_workers is None else f"{self.min_workers} to {self.num_workers}"
        cpus = f"{self.cpus_per_worker} CPU{'s' if self.cpus_per_worker != 1 else ''}"
        return f"{some} worker{'s' if some != '1' else ''} with {cpus}{_gpus(self.gpu)} each"


@dataclass(frozen=True)
class Workers:
    """A number of workers from the command line: N, or MIN:MAX for elastic training."""

    largest: int
    smallest: int | None = None

    @classmethod
    def parse(cls, text: str | int) -> Workers:
        """From text, or the number that runs of earlier releases have; raises ValueError for anything else."""
        first, separator, last = str(text).partition(":")
        try:
            found = cls(int(last), int(first)) if separator else cls(int(first))
        except ValueError:
            found = cls(0)
        if found.largest < 1 or (found.smallest is not None and not 1 <= found.smallest <= found.largest):
            raise ValueError(f"--workers {text!r} is neither a number from 1 nor MIN:MAX, such as 2:8")
        return found


def allocate_workers(workers: Workers, *, gpu: float) -> TrainingResources:
    """Divide the CPUs of the nodes among workers; raises UsageFailure for more workers than there can ever be room for.

    On a cluster that scales, the nodes are those that it can start, and one CPU of each stays free for drivers and
    controllers. Ray itself would wait forever for resources that cannot exist.
    """
    nodes, scales = _nodes()
    needed = workers.largest if workers.smallest is None else workers.smallest
    slots = num_slots(nodes, 1, gpu=gpu)
    if needed > slots:
        _refuse(TrainingResources(needed, gpu=gpu), nodes, slots, scales=scales)
    if workers.largest > slots:
        log.warning("the cluster has room for %d of the %d workers at most", slots, workers.largest)
    largest = min(workers.largest, slots)
    if scales:
        nodes = [{**node, "CPU": max(1.0, node.get("CPU", 0) - 1)} if node.get("CPU") else node for node in nodes]
    cpus = 1
    while num_slots(nodes, cpus + 1, gpu=gpu) >= largest:
        cpus += 1
    if not scales:
        free = int(connection.free_resources().get("CPU", 0)) // largest
        if not free:
            log.warning("all CPUs of the cluster are in use; training waits for %d", largest)
        cpus = max(1, min(cpus, free))
    return TrainingResources(largest, cpus, gpu, None if workers.smallest is None else min(workers.smallest, largest))


def num_worker_slots(cpus: int, *, gpu: float) -> int:
    """How many workers with `cpus` CPUs and `gpu` GPUs fit on the nodes that the idle cluster has or can start."""
    return num_slots(_nodes()[0], cpus, gpu=gpu)


def num_slots(nodes: list[Mapping[str, float]], cpus: int, *, gpu: float) -> int:
    """How many workers with `cpus` CPUs and `gpu` GPUs fit on idle nodes of these resources."""
    return sum(
        int(min(node.get("CPU", 0) // cpus, math.floor(node.get("GPU", 0) / gpu + 1e-9) if gpu else math.inf))
        for node in nodes
    )


def _nodes() -> tuple[list[Mapping[str, float]], bool]:
    """Resources of each node that the cluster can have, and whether it starts nodes by itself."""
    types = node_types() if connection.may_scale() else []
    if not types:
        return list(connection.node_resources()), False
    return [each.resources for each in types for _ in range(each.max_nodes)], True


def _gpus(amount: float) -> str:
    return "" if not amount else " and a GPU" if amount == 1 else f" and {amount:g} of a GPU"


def _refuse(wanted: TrainingResources, nodes: list[Mapping[str, float]], slots: int, *, scales: bool) -> None:
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    has = f"the cluster {'can have' if scales else 'has'} {cpus:g} CPUs and {gpus:g} GPUs"
    largest = f"use 1 to {slots} workers" if slots else "name a cluster that has them with --address"
    remedy = f"{largest}, or raise max_workers of a node type" if scales else largest
    raise UsageFailure(f"cannot allocate {wanted}: {has}; {remedy}")
