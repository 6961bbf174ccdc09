"""`shopkeeper stop`: stops the local endpoint, the local cluster and the MLflow UI of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.cluster.local_head import stop_head
from jobs.serving.foreground import end_foreground
from jobs.tracking.mlflow_ui import stop_ui
from models.family import Family


@dataclass(frozen=True)
class Options:
    """None."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Stop everything that `deploy` and `demo` started on this machine; the next `deploy` restores all deployments.

    Requests under way are answered first.
    """
    if context.address is not None:
        raise UsageFailure(
            f"stop works on this machine only; for {context.address} use `serve shutdown`, or omit --address"
        )
    had_ui = stop_ui(context.store)
    was_served = end_foreground(context.store)  # first, since it would start the cluster again
    had_cluster = stop_head(context.store) or was_served
    log.info("the local cluster was %s", "stopped" if had_cluster else "not running")
    return Outcome(
        status="stopped" if had_cluster or had_ui else "unchanged",
        details={"cluster": had_cluster, "mlflow": had_ui},
    )
