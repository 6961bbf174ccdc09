"""The context of a verb: store, cluster and tracking server; and the exceptions with which a verb fails."""

from __future__ import annotations

import errno
import logging
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.cli.everywhere import DEFAULT_STORE
from models.prepared import Prepared

log = logging.getLogger("shopkeeper")

ON_A_DASHBOARD = ("deploy", "rollback", "submit", "jobs")
"""Verbs whose --address is a dashboard URL."""
ON_THIS_MACHINE = ("events", "status", "ui", "serve", "stop", "demo", "keys", "prices")
"""Verbs that take no --address."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DATA_REJECTED = 3
EXIT_GATE_NOT_MET = 4
EXIT_DEPENDENCY_DOWN = 5
EXIT_INTERRUPTED = 6
EXIT_CTRL_C = 130


class Failure(Exception):
    """An expected failure of a verb; the message names the problem, the value and the remedy."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details
        """Additional keys of the JSON line."""


class UsageFailure(Failure):
    """The command line asks for something that cannot be done."""

    exit_code = EXIT_USAGE


class GateNotMet(Failure):
    """The candidate did not pass the promotion gate; nothing was changed."""

    exit_code = EXIT_GATE_NOT_MET


class DependencyDown(Failure):
    """A required server does not respond."""

    exit_code = EXIT_DEPENDENCY_DOWN


class Interrupted(Failure):
    """Interrupted but resumable; the message says how."""

    exit_code = EXIT_INTERRUPTED


def with_run(error: BaseException, run_id: str) -> None:
    """Note the tracked run that an error ended, for the JSON line; any exception can end a run."""
    setattr(error, "details", {"run_id": run_id, **details_of(error)})  # noqa: B010  only Failure declares it


def details_of(error: BaseException) -> dict[str, Any]:
    """Keys for the JSON line that an error carries."""
    return dict(getattr(error, "details", {}))


@dataclass(frozen=True)
class Store:
    """The directory of data, runs, the tracking database and deployed models; an absolute path."""

    root: Path

    def check(self, *, writes: bool) -> None:
        """Raise UsageFailure if the path is not that of a directory, or of one that must be writable and is not."""
        try:
            str(self.root).encode()
        except UnicodeEncodeError:
            raise UsageFailure(f"--store {str(self.root)!r} is not valid text in UTF-8; rename the directory") from None
        if self.root.is_symlink() and not self.root.exists():
            raise UsageFailure(
                f"--store {self.root} is a symbolic link to {self.root.readlink()}, which does not exist"
            )
        existing = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not existing.is_dir():
            raise UsageFailure(f"--store {self.root}: {existing} is not a directory; name one")
        if existing == self.root and not os.access(self.root, os.R_OK | os.X_OK):
            raise UsageFailure(f"--store {self.root} is not readable for this user; run as its owner, or name another")
        if writes and not is_writable(self.root):
            raise UsageFailure(
                f"--store {self.root} is not writable for this user; change the permissions of {existing}, "
                "or name another"
            )

    def data(self, family: str) -> Path:
        """Prepared data of a family: a directory per fingerprint, and the file CURRENT."""
        return self.root / family / "data"

    def current_data(self, family: str) -> Prepared:
        """The current prepared data; raises UsageFailure if there is none."""
        pointer = self.data(family) / "CURRENT"
        if not pointer.is_file():
            raise UsageFailure(
                f"no prepared data for {family!r} in {self.root}; "
                f"run `{Context(self).command(f'prepare {family} --raw PATH')}` first"
            )
        return Prepared(self.data(family) / pointer.read_text(encoding="utf-8").strip())

    def run_directory(self, family: str, run_id: str) -> Path:
        """Checkpoints and bundle of a training run."""
        return self.root / family / "runs" / run_id

    def baselines(self, family: str) -> Path:
        """Scores of the family's baselines by data set, which are safe to delete."""
        return self.root / family / "baselines"

    def feature_store(self, family: str) -> Path:
        """The SQLite feature store that deploy fills and serve reads."""
        return self.root / family / "features.sqlite"

    def live_feature_store(self, family: str) -> Path:
        """The SQLite store of features that endpoints write; deploy creates it once and never overwrites it."""
        return self.root / family / "live-features.sqlite"

    @property
    def items(self) -> Path:
        """Items that the shop put since the data was prepared, for all families; deploy never replaces it."""
        return self.root / "items.sqlite"

    @property
    def events(self) -> Path:
        """The SQLite store of the events that the shop sends, one for all families; deploy never replaces it."""
        return self.root / "events.sqlite"

    @property
    def tombstones(self) -> Path:
        """The SQLite file of erased users, one for all families; missing while nobody was ever erased."""
        return self.root / "erased.sqlite"

    @property
    def keys(self) -> Path:
        """The API keys of the endpoint, as hashes."""
        return self.root / "keys.json"

    @property
    def internal_key(self) -> Path:
        """The API key with which verbs ask the endpoint for its model."""
        return self.root / "internal-key"

    @property
    def salt(self) -> Path:
        """The secret with which the request log hashes ids."""
        return self.root / "salt"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def logs(self) -> Path:
        """What Ray and other libraries wrote during the last verbs."""
        return self.root / "logs"

    @property
    def spool(self) -> Path:
        """Tracking calls that are not delivered yet."""
        return self.root / "spool"

    @property
    def serve(self) -> Path:
        """The rendered Serve config and the pinned models, `serve/models/<family>/<version>`."""
        return self.root / "serve"

    @property
    def cluster(self) -> Path:
        """State of the local Ray cluster that `deploy` or `demo` started: cluster.json, token."""
        return self.root / "cluster"


@dataclass(frozen=True)
class Context:
    """The environment of a verb: everything but its own options."""

    store: Store
    address: str | None = None
    """Ray address or dashboard URL; None is this machine."""
    tracking_uri: str | None = None
    """An MLflow server, or None for the SQLite database in the store."""
    name_prefix: str = ""
    """Prefix of the names of experiments and registered models, which separates shops on one MLflow server."""
    dry_run: bool = False
    submission_id: str | None = None
    """Of the submitted job that this process is the driver of."""
    git_commit: str | None = None
    """Of the checkout that a job was submitted from; its uploaded code is in no repository."""

    def command(self, words: str) -> str:
        """A command line for the user: `words` after `shopkeeper`, then store and cluster unless they are the default.

        An address is left out where the verb takes none or one of another kind.
        """
        verb = words.partition(" ")[0]
        flags = {}
        if self.store.root != Path(DEFAULT_STORE).absolute():
            flags["--store"] = str(self.store.root)
        if self.name_prefix:
            flags["--name-prefix"] = self.name_prefix
        is_dashboard = (self.address or "").startswith(("http://", "https://"))
        if self.address and verb not in ON_THIS_MACHINE and is_dashboard == (verb in ON_A_DASHBOARD):
            flags["--address"] = self.address
        return " ".join(["shopkeeper", words, *(f"{name} {shlex.quote(value)}" for name, value in flags.items())])

    def name_in_mlflow(self, name: str) -> str:
        """The name of a family's experiment and registered model; one that is not a family's stays as it is."""
        from models import FAMILIES  # loads all of them

        return f"{self.name_prefix}{name}" if name in FAMILIES else name


@dataclass
class Outcome:
    """The result of a verb; becomes the JSON line."""

    status: str = "ok"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    summary: str | None = None
    """Text for people; None lists the metrics and details."""
    table: str | None = None
    """Lines for people after the metrics and details."""
    exit_code: int = 0
    """Not 0 for a verb that has done its work and found something wrong."""


def is_writable(directory: Path) -> bool:
    """Whether this process may create files in a directory, or in the nearest one above that exists."""
    existing = next((path for path in (directory, *directory.parents) if path.exists()), directory)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def described(error: OSError) -> str:
    """An error of the operating system in one line: the file, what is wrong with it, and the remedy if one is known."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = {
        errno.EACCES: "; change the permissions, or name another directory with --store or the flag of the output",
        errno.EROFS: "; name a directory of a writable file system with --store or the flag of the output",
        errno.ENOSPC: "; free some space and run it again: no file is half-written",
        errno.EDQUOT: "; free some space and run it again: no file is half-written",
        errno.EFBIG: "; raise the limit of file sizes (ulimit -f) and run it again: no file is half-written",
    }.get(error.errno or 0, "; --debug shows the traceback")
    return f"{where}{error.strerror or error}{remedy}"
