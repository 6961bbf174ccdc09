"""What every verb is handed: where the store is, which cluster, which tracking server; and how a verb fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import FAMILIES
from models.family import Family
from models.prepared import Prepared

log = logging.getLogger("shopkeeper")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA_REJECTED = 3
EXIT_GATE_NOT_MET = 4
EXIT_DEPENDENCY_DOWN = 5
EXIT_INTERRUPTED = 6
EXIT_CTRL_C = 130


class Failure(Exception):
    """A verb's foreseen failure: the message says what was wrong, the value and the remedy."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details
        """Goes into the JSON line beside the error."""


class UsageFailure(Failure):
    """The request cannot be carried out as asked."""

    exit_code = EXIT_USAGE


class GateNotMet(Failure):
    """The candidate is not good enough; nothing was changed."""

    exit_code = EXIT_GATE_NOT_MET


class DependencyDown(Failure):
    """A server that is needed does not answer."""

    exit_code = EXIT_DEPENDENCY_DOWN


class Interrupted(Failure):
    """Stopped before the end, but resumable; the message says how."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True)
class Store:
    """One directory that holds data, runs, the tracking database and what is deployed; absolute."""

    root: Path

    def data(self, family: str) -> Path:
        """Where prepared data of a family lies, one directory per fingerprint, and the file CURRENT."""
        return self.root / family / "data"

    def current_data(self, family: str) -> Prepared:
        """The prepared data in use; raises UsageFailure when there is none."""
        pointer = self.data(family) / "CURRENT"
        if not pointer.is_file():
            raise UsageFailure(
                f"no prepared data for {family!r} in {self.root}; "
                f"run `shopkeeper prepare {family} --raw PATH --store {self.root}` first"
            )
        return Prepared(self.data(family) / pointer.read_text(encoding="utf-8").strip())

    def run_directory(self, family: str, run_id: str) -> Path:
        """Checkpoints and bundle of one training run."""
        return self.root / family / "runs" / run_id

    def feature_store(self, family: str) -> Path:
        """The SQLite file that deploy fills and serve reads."""
        return self.root / family / "features.sqlite"

    def live_feature_store(self, family: str) -> Path:
        """The SQLite file of the features that endpoints write; deploy makes it once and leaves what it holds."""
        return self.root / family / "live-features.sqlite"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def spool(self) -> Path:
        """Tracking calls that could not be delivered yet."""
        return self.root / "spool"

    @property
    def serve(self) -> Path:
        """The rendered Serve config and pinned bundles, `serve/models/<family>/<version>`."""
        return self.root / "serve"

    @property
    def cluster(self) -> Path:
        """The local Ray cluster that `deploy` or `demo` started: cluster.json, token."""
        return self.root / "cluster"


@dataclass(frozen=True)
class Context:
    """Everything outside a verb's own options."""

    store: Store
    address: str | None = None
    """Ray address or dashboard URL; None is this machine."""
    tracking_uri: str | None = None
    """An MLflow server, or None for the SQLite database in the store."""
    dry_run: bool = False


@dataclass
class Outcome:
    """What a verb has to say; becomes the JSON line."""

    status: str = "ok"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def family_named(name: str) -> Family:
    """The family of that name; raises UsageFailure that lists those there are."""
    if name not in FAMILIES:
        raise UsageFailure(f"unknown family {name!r}; there are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
