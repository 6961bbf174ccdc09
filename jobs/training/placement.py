"""Where training workers run, and what each reserves: on the nodes that a cluster has or can start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Nodes:
    """The nodes that a cluster has, or can have."""

    resources: Sequence[Mapping[str, float]]
    """Of each node."""
    scales: bool = False
    """Whether the cluster starts nodes by itself."""

    @classmethod
    def of_cluster(cls) -> Nodes:
        """Those of the connected cluster; asks its head, if it may start nodes."""
        types = node_types() if connection.may_scale() else []
        if not types:
            return cls(connection.node_resources())
        return cls([each.resources for each in types for _ in range(each.max_nodes)], scales=True)

    def slots(self, cpus: int, *, gpu: float = 0.0) -> int:
        """How many workers with `cpus` CPUs and `gpu` GPUs each fit on them while they are idle."""
        return sum(
            int(min(node.get("CPU", 0) // cpus, math.floor(node.get("GPU", 0) / gpu + 1e-9) if gpu else math.inf))
            for node in self.resources
        )

    def allocate(self, workers: Workers, *, gpu: float) -> TrainingResources:
        """Divide their CPUs among workers; raises UsageFailure for more workers than there can ever be room for.

        Where nodes are started, one CPU of each stays free for drivers and controllers. Ray itself would wait forever
        for resources that cannot exist.
        """
        needed = workers.largest if workers.smallest is None else workers.smallest
        slots = self.slots(1, gpu=gpu)
        if needed > slots:
            self._refuse(TrainingResources(needed, gpu=gpu), slots)
        if workers.largest > slots:
            log.warning("the cluster has room for %d of the %d workers at most", slots, workers.largest)
        largest = min(workers.largest, slots)
        cpus = self._cpus_of_each(largest, gpu=gpu)
        smallest = None if workers.smallest is None else min(workers.smallest, largest)
        return TrainingResources(largest, cpus, gpu, smallest)

    def _cpus_of_each(self, num_workers: int, *, gpu: float) -> int:
        """The most that as many workers can have each; where no nodes are started, of what is free now."""
        left = self
        if self.scales:
            left = Nodes([{**node, "CPU": max(1.0, node["CPU"] - 1)} for node in self.resources if node.get("CPU")])
        cpus = 1
        while left.slots(cpus + 1, gpu=gpu) >= num_workers:
            cpus += 1
        if self.scales:
            return cpus
        free = int(connection.free_resources().get("CPU", 0)) // num_workers
        if not free:
            log.warning("all CPUs of the cluster are in use; training waits for %d", num_workers)
        return max(1, min(cpus, free))

    def _refuse(self, wanted: TrainingResources, slots: int) -> None:
        cpus, gpus = (sum(node.get(name, 0) for node in self.resources) for name in ("CPU", "GPU"))
        has = f"the cluster {'can have' if self.scales else 'has'} {cpus:g} CPUs and {gpus:g} GPUs"
        remedy = f"use 1 to {slots} workers" if slots else "name a cluster that has them with --address"
        more = ", or raise max_workers of a node type" if self.scales else ""
        raise UsageFailure(f"cannot allocate {wanted}: {has}; {remedy}{more}")


def _gpus(amount: float) -> str:
    return "" if not amount else " and a GPU" if amount == 1 else f" and {amount:g} of a GPU"
