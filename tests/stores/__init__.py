"""Stores and models written by earlier releases, one archive per release."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from functools import cache
from pathlib import Path

from models.bundle import MANIFEST

TEXTS = (".json", ".yaml", ".yml")


def unpack(release: str, directory: Path) -> Path:
    """Unpack the archive of a release, relocate the paths in its store, and return the store.

    `bundles/`, `requests/` and `answers/` are next to the store.
    """
    with tarfile.open(_archive(release)) as archive:
        archive.extractall(directory, filter="data")
    store = (directory / "store").absolute()
    before, after = f"/tmp/shopkeeper-store-{release}/store", str(store)
    _move_in_files(store, before, after)
    _move_in_database(store / "mlflow.db", before, after)
    return store


@cache
def bundle_names(release: str) -> tuple[str, ...]:
    """Names of the standalone models in the archive of a release."""
    with tarfile.open(_archive(release)) as archive:
        paths = [Path(name) for name in archive.getnames()]
    return tuple(sorted(path.name for path in paths if path.parent == Path("bundles")))


def _archive(release: str) -> Path:
    return Path(__file__).with_name(f"{release}.tar.xz")


def _move_in_files(store: Path, before: str, after: str) -> None:
    for path in store.rglob("*"):
        # Sealed bundles contain no paths and must not change.
        if path.suffix not in TEXTS or (path.parent / MANIFEST).exists():
            continue
        text = path.read_text(encoding="utf-8")
        if before in text:
            path.write_text(text.replace(before, after), encoding="utf-8")


def _move_in_database(path: Path, before: str, after: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                # replace() would convert numbers to text.
                where = f'typeof("{column}") = \'text\' AND instr("{column}", :before)'
                change = f'UPDATE "{table}" SET "{column}" = replace("{column}", :before, :after) WHERE {where}'
                database.execute(change, {"before": before, "after": after})
