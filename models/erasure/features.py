"""Erased users and the feature stores: their values are neither read nor written, and deleted from the files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.erasure.erased import FOREVER, Erased
from models.erasure.tombstones import Tombstones
from models.errors import TombstonesUnreadable
from models.family import Family, Feature
from models.prepared import Prepared

BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Deleted:
    """What was deleted from a feature store, or why that did not work."""

    path: Path
    values: int = 0
    error: str | None = None


def silenced(
    features: Sequence[Feature], tombstones: Tombstones | None, *, on_unreadable: Callable[[str], object] | None = None
) -> list[Feature]:
    """The features of a family, which know nothing of erased users: neither in requests nor in prepared data.

    Where the tombstones cannot be read every user of a request is unknown, and `on_unreadable` is told why; without it,
    TombstonesUnreadable is raised.
    """
    if tombstones is None:
        return list(features)
    return [_silenced(each, tombstones, on_unreadable) if each.is_personal else each for each in features]


def _silenced(feature: Feature, tombstones: Tombstones, on_unreadable: Callable[[str], object] | None) -> Feature:
    def keys(request: Any) -> list[str]:
        asked = feature.keys(request)
        if not asked:
            return []
        try:
            is_erased = tombstones.erased_of(asked)
        except TombstonesUnreadable as error:
            if on_unreadable is None:
                raise
            on_unreadable(str(error))
            return []
        return [key for key, erased in zip(asked, is_erased, strict=True) if not erased]

    rows = feature.rows
    return replace(feature, keys=keys, rows=None if rows is None else _rows_without(rows, tombstones))


def _rows_without(
    rows: Callable[[Prepared], Iterable[tuple[str, Any]]], tombstones: Tombstones
) -> Callable[[Prepared], Iterable[tuple[str, Any]]]:
    def kept(data: Prepared) -> Iterator[tuple[str, Any]]:
        erased = tombstones.erased()
        for key, value in rows(data):
            if not erased or erased.until(key) is None:
                yield key, value

    return kept


def personal(family: Family) -> tuple[str, ...]:
    """Names of the features whose keys are user ids."""
    return tuple(each.name for each in family.features if each.is_personal)


def stores_of(root: Path, family: Family) -> list[Path]:
    """The feature stores of a family in a store: those of `deploy`, of endpoints, and of `predict`."""
    directory = root / family.name
    fixed = [directory / "features.sqlite", directory / "live-features.sqlite"]
    return [path for path in (*fixed, *sorted(directory.glob("features-*.sqlite"))) if path.is_file()]


def forget(path: Path, names: Sequence[str], user_ids: Sequence[str]) -> Deleted:
    """Delete the values of users from a feature store, and overwrite their bytes; quick, and safe beside readers."""
    marks = ", ".join("?" for _ in names)
    values = 0

    def delete(connection: sqlite3.Connection) -> None:
        nonlocal values
        statement = f"DELETE FROM feature WHERE name IN ({marks}) AND key = ?"
        for user_id in user_ids:
            values += connection.execute(statement, (*names, user_id)).rowcount

    error = _change(path, delete)
    return Deleted(path, values, error)


def sweep(path: Path, names: Sequence[str], erased: Erased) -> Deleted:
    """The same for everybody who is erased now, found by the hashes of all keys, and no stale copies are left."""
    marks = ", ".join("?" for _ in names)
    values = 0

    def delete(connection: sqlite3.Connection) -> None:
        nonlocal values
        keys = connection.execute(f"SELECT DISTINCT key FROM feature WHERE name IN ({marks})", tuple(names))
        gone = [key for (key,) in keys if erased.until(key) == FOREVER]
        for key in gone:
            values += connection.execute(
                f"DELETE FROM feature WHERE name IN ({marks}) AND key = ?", (*names, key)
            ).rowcount

    error = _change(path, delete) or _change(path, None)
    return Deleted(path, values, error)


def _change(path: Path, do: Callable[[sqlite3.Connection], None] | None) -> str | None:
    """Change a feature store in one transaction, or rewrite it without stale pages; returns what went wrong."""
    try:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            if do is None:
                connection.execute("VACUUM")
            else:
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    do(connection)
            # The write-ahead log of a live store has the pages as they were.
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return "readers keep its write-ahead log; run it again" if busy else None
    except sqlite3.Error as error:
        return f"{error}"
