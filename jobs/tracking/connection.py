"""The connection to MLflow: a tracking server, or the database of a store."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli.context import Context, DependencyDown, UsageFailure, is_writable
from jobs.cli.environment import MLFLOW_ENVIRONMENT
from jobs.tracking.database import copy_database, database_uri, relocate
from jobs.tracking.spool import CallRejected
from models import FAMILIES

if TYPE_CHECKING:  # seconds to import
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
PROBE_TIMEOUT_S = 5.0
REJECTIONS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "NOT_FOUND")


class Connection:
    """Connects lazily to the tracking server of a context, or to the SQLite database of its store.

    The locations in the database of a store that was moved are corrected first. Of a store that this process may not
    write to, a temporary copy of the database is used.
    """

    def __init__(self, context: Context) -> None:
        self.root = context.store.root.absolute()
        self.uri = context.tracking_uri or database_uri(self.root / DATABASE)
        self._is_own = context.tracking_uri is None
        self.is_read_only = self._is_own and self.root.exists() and not is_writable(self.root)
        self._artifacts = context.store.artifacts.absolute()
        self._lazy_client: MlflowClient | None = None
        self._was_down = False

    @property
    def is_remote(self) -> bool:
        """Whether runs are on a server, not in a local database."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client, created lazily; use it inside `reached`."""
        if self._lazy_client is None:
            for name, value in MLFLOW_ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            for name in ("mlflow", "alembic", "urllib3.connectionpool"):
                logging.getLogger(name).setLevel(logging.ERROR)
            if self.is_remote:
                self._lazy_client = self._new_client()
            else:
                self._lazy_client = self._copied_client() if self.is_read_only else self._locked_client()
            logging.getLogger("mlflow").setLevel(logging.ERROR)
        return self._lazy_client

    @contextmanager
    def reached(self, *, probe: bool = True) -> Iterator[None]:
        """Maps MLflow's errors to ours: CallRejected for rejected calls, DependencyDown for all else."""
        if probe and self.is_remote:
            self._probe()
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError, sqlite3.Error) as error:
            if getattr(error, "error_code", None) in REJECTIONS:
                raise CallRejected(f"MLflow at {self.shown_uri} rejected the call: {first_line(error)}") from error
            raise self._down(first_line(error)) from error
        self._was_down = False

    @property
    def shown_uri(self) -> str:
        """The URI without credentials; the path of the database in the store."""
        if self._is_own:
            return f"sqlite:///{self.root / DATABASE}"
        parts = urllib.parse.urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.netloc else self.uri

    def _locked_client(self) -> MlflowClient:
        self.root.mkdir(parents=True, exist_ok=True)
        # The first use of a database creates its tables, which two processes must not do at once.
        with (self.root / ".mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_own:
                relocate(self.root / DATABASE, self._artifacts, FAMILIES)
            return self._new_client()

    def _copied_client(self) -> MlflowClient:
        """A client of a temporary copy of the database, which MLflow and `relocate` may write to."""
        if not (self.root / DATABASE).is_file():
            raise UsageFailure(f"{self.root} has no runs and is not writable; name another --store")
        directory = Path(tempfile.mkdtemp(prefix="shop-"))
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        copied = directory / DATABASE
        copy_database(self.root / DATABASE, copied)
        relocate(copied, self._artifacts, FAMILIES)
        self.uri = database_uri(copied)
        return self._new_client()

    def _new_client(self) -> MlflowClient:
        with warnings.catch_warnings(action="ignore"):
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            if not self.is_remote:
                client.search_experiments(max_results=1)
            return client

    def _probe(self) -> None:
        # MLflow's requests retry for long; this one tells at once whether the server is up.
        parts = urllib.parse.urlsplit(self.uri)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
        try:
            urllib.request.urlopen(address, timeout=PROBE_TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            # Any other status will do: a gateway may hide the health page.
            if error.code in (502, 503, 504):
                raise self._down(f"HTTP {error.code}") from error
        except (OSError, HTTPException) as error:
            raise self._down(str(getattr(error, "reason", error))) from error

    def _down(self, reason: str) -> DependencyDown:
        self._was_down = True
        if not self.is_remote:
            return DependencyDown(
                f"the tracking database {self.shown_uri} cannot be used ({reason}); check its permissions and the free "
                f"space of {self.root}"
            )
        return DependencyDown(
            f"the tracking server {self.shown_uri} does not respond ({reason}); start it, set MLFLOW_TRACKING_URI to "
            "another one, or unset it to use the store's own database"
        )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
