"""`shopkeeper stop`: takes the local endpoint, its cluster and MLflow's pages of a store down, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Outcome, UsageFailure, log
from jobs.cluster.local_head import stop_head
from jobs.tracking.mlflow_ui import stop_ui
from models.family import Family


@dataclass(frozen=True)
class Options:
    """Nothing to choose."""


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Stop what `deploy` and `demo` started on this machine; what is deployed comes back with the next `deploy`."""
    if context.address is not None:
        raise UsageFailure(
            f"stop works on this machine; at {context.address} use `serve shutdown`, or leave out --address"
        )
    had_pages = stop_ui(context.store)
    had_cluster = stop_head(context.store)
    log.info("the local cluster was %s", "stopped" if had_cluster else "not running")
    return Outcome(
        status="stopped" if had_cluster or had_pages else "unchanged",
        details={"cluster": had_cluster, "mlflow": had_pages},
    )
