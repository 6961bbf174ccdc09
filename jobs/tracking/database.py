"""The tracking database of a store: its address, its locations after the store was moved, and a copy of it to read."""

from __future__ import annotations

import atexit
import functools
import shutil
import sqlite3
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from jobs.cli.context import log
from models.files import is_same_directory

BUSY_TIMEOUT_S = 20.0
AWKWARD = frozenset("?#%")
"""Characters with a meaning in a URI."""
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns in which MLflow keeps absolute locations of artifacts; it has no relative ones (mlflow issue 3144)."""


@functools.cache
def database_uri(path: Path, *, outlives_process: bool = False) -> str:
    """SQLAlchemy's address of a SQLite file.

    A `?` would end the path, SQLAlchemy 2.1 decodes a `%` and 2.0 does not, and MLflow creates the directory that the
    undecoded address names: a path with one of them is reached through a symbolic link with a plain name.
    """
    if AWKWARD.isdisjoint(str(path)):
        return f"sqlite:///{path}"
    directory = Path(tempfile.mkdtemp(prefix="shop-"))
    if not outlives_process:
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "store").symlink_to(path.parent)
    return f"sqlite:///{directory / 'store' / path.name}"


def relocate(database: Path, artifacts: Path, families: Iterable[str]) -> None:
    """Make the locations in a store's database point to `artifacts`.

    Nothing changes unless the store was moved or copied: an experiment of a family is always created with the store's
    directory of artifacts as its location. One transaction; several processes may call it at once. MLflow keeps
    locations that it has read, so a process must call it before it uses the database.
    """
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
        if not _former(connection, artifacts, families):
            return
        connection.execute("BEGIN IMMEDIATE")
        former = _former(connection, artifacts, families)
        for location in former:
            for before, after in ((location.as_uri(), artifacts.as_uri()), (str(location), str(artifacts))):
                _replace(connection, before, after)
        connection.execute("COMMIT")
    for location in former:
        log.info("the store was moved or copied from %s to %s", location.parent, artifacts.parent)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that another process may be writing; needs read permission only."""
    address = f"{source.as_uri()}?mode=ro"
    original = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S)
    with closing(original), closing(sqlite3.connect(target)) as copy:
        original.backup(copy)


def _former(connection: sqlite3.Connection, artifacts: Path, families: Iterable[str]) -> list[Path]:
    """Other directories of artifacts than `artifacts` that experiments of the families name."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "experiments" not in tables:
        return []
    suffixes = tuple(families)
    rows = connection.execute("SELECT DISTINCT name, artifact_location FROM experiments").fetchall()
    found = {_path(location) for name, location in rows if location and name.endswith(suffixes)}
    return sorted(
        path for path in found if path and path.name == artifacts.name and not is_same_directory(path, artifacts)
    )


def _path(location: str) -> Path | None:
    """The local path of a location, or None if it is elsewhere, such as in S3."""
    parts = urllib.parse.urlsplit(location)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(location.removeprefix("file://")))
    return Path(location) if location.startswith("/") else None


def _replace(connection: sqlite3.Connection, before: str, after: str) -> None:
    """Replace a directory in all locations that are below it."""
    for table, column in LOCATIONS:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column in columns:
            connection.execute(
                f"UPDATE {table} SET {column} = :after || substr({column}, length(:before) + 1) "
                f"WHERE {column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/'",
                {"before": before, "after": after},
            )
