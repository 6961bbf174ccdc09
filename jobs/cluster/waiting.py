"""Waiting for a cluster: until Ray Train's workers have their resources, and whether all nodes see the store."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.context import Failure, log
from jobs.cluster import connection

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
FOREVER_S = 10 * 365 * 86400
"""Ray Train knows no start-up without a time limit."""
FIRST_MESSAGE_S, NEXT_MESSAGES_S = 15.0, 120.0
NODE_TIMEOUT_S = 60.0
ELASTIC_ATTEMPT_S = 30.0


@dataclass(frozen=True)
class Patience:
    """How long Ray Train tries to start its workers."""

    attempt_s: float | None
    """Of one attempt; None is what the environment says."""
    max_failures: int
    """Attempts that may fail; -1 is any number."""

    @classmethod
    def of(cls, limit_s: float | None, *, elastic: bool, max_failures: int) -> Patience:
        """For a limit of the user, or none: then without limit, where nodes may come or others use the cluster.

        A lost node then costs one retry, however long the next one takes to come. Elastic training chooses the number
        of its workers in each attempt, and in the first ones may count on a node that has just been lost.
        """
        is_unlimited = limit_s is None and connection.may_scale()
        if elastic:
            seconds = ELASTIC_ATTEMPT_S * (max_failures + 1) if limit_s is None else limit_s
            return cls(ELASTIC_ATTEMPT_S, -1 if is_unlimited else math.ceil(seconds / ELASTIC_ATTEMPT_S))
        if is_unlimited:
            return cls(FOREVER_S, max_failures)
        return cls(None if limit_s is None else max(1.0, limit_s / (max_failures + 1)), max_failures)


@contextmanager
def waiting(what: str, bundle: Mapping[str, float], attempt_s: float | None) -> Iterator[None]:
    """Lets Ray Train wait `attempt_s` for `what`, each with the resources of `bundle`; messages now and then say so."""
    before = os.environ.get(START_TIMEOUT)
    if attempt_s is not None:
        os.environ[START_TIMEOUT] = str(attempt_s)
    ended = threading.Event()
    watcher = threading.Thread(target=_say_what_is_missing, args=(what, bundle, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(timeout=NODE_TIMEOUT_S)
        if before is None:
            os.environ.pop(START_TIMEOUT, None)
        else:
            os.environ[START_TIMEOUT] = before


def check_visible(directory: Path) -> None:
    """Raise Failure if some live node does not see a directory of the store; names the node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return

    @ray.remote(num_cpus=0, max_retries=0)
    def sees(path: str) -> bool:  # nested, so that Ray sends its code
        import pathlib

        return pathlib.Path(path).is_dir()

    asked = {
        sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            str(directory)
        ): node
        for node in nodes
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_TIMEOUT_S)
    for answer in answered:
        try:
            is_there = ray.get(answer)
        except ray.exceptions.RayError:
            continue  # the node has gone; workers are not started there
        if not is_there:
            address = asked[answer]["NodeManagerAddress"]
            raise Failure(
                f"the node {address} does not see {directory}: mount the store there under the same path, see "
                "docs/operations.md"
            )


def _say_what_is_missing(what: str, bundle: Mapping[str, float], ended: threading.Event) -> None:
    wait_s = FIRST_MESSAGE_S
    while not ended.wait(wait_s):
        missing = _pending(bundle)
        if missing:
            log.info("waiting for %s: the cluster has no free resources for %d of them yet", what, missing)
            wait_s = NEXT_MESSAGES_S


def _pending(bundle: Mapping[str, float]) -> int:
    """The bundles of such resources that wait to be placed."""
    import ray
    from ray.util import placement_group_table

    try:
        table: dict[str, dict[str, Any]] = placement_group_table()
    except (ray.exceptions.RayError, ConnectionError, RuntimeError):
        return 0  # only a message depends on it
    groups = [each["bundles"].values() for each in table.values() if each["state"] in ("PENDING", "RESCHEDULING")]
    return sum(len(bundles) for bundles in groups if all(dict(each) == dict(bundle) for each in bundles))
