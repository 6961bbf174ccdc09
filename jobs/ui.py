"""`shopkeeper ui`: opens MLflow's UI with the runs of the store, until Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jobs.cli.context import Context, Failure, Outcome, UsageFailure, log
from jobs.tracking.client import Tracking
from jobs.tracking.mlflow_ui import page_of, served
from models import FAMILIES
from models.family import Family


@dataclass(frozen=True)
class Options:
    """Where the UI listens."""

    port: int | None = None
    """Port on this machine; unset is 5000, or a free one if that is taken."""

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError(f"--port {self.port} is not a port; use 1 to 65535")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """Serve the UI until Ctrl-C; with MLFLOW_TRACKING_URI only print the addresses on that server."""
    tracking = Tracking(context)
    names = [family.name] if family is not None else list(FAMILIES)
    with tracking.reached():
        experiments = {name: found for name in names if (found := tracking.experiment_with_runs_first(name))}
    if not experiments:
        known = ", ".join(tracking.name_of(name) for name in names)
        raise UsageFailure(f"{tracking.shown_uri} has no runs of {known}; `{context.command('train')}` makes one")
    if tracking.is_remote:
        pages = {name: page_of(tracking.shown_uri.rstrip("/"), found) for name, found in experiments.items()}
        return Outcome(details={"pages": pages}, summary="\n".join(pages.values()))
    log.info("starting MLflow")
    with served(tracking.uri, context.store.artifacts, port=options.port) as (url, process):
        pages = {name: page_of(url, found) for name, found in experiments.items()}
        for name, page in pages.items():
            log.info("%s: %s", name, page)
        log.info("Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            raise Failure(f"the MLflow UI at {url} ended by itself with exit code {process.wait()}")
    return Outcome(status="stopped", details={"pages": pages})
