"""A store with a log of which a user is to be erased, for the tests of erasure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import jobs.erase
from jobs.cli.context import Context, Outcome
from models import FAMILIES
from models.features import write_store
from models.prepared import Prepared
from tests.kit.logs import Row, make_log, prepared, write_csv

USER = "anna.schmidt"
RECOMMENDER = FAMILIES["recommender"]


def log_of(user: str = USER) -> list[Row]:
    """A log in which one user has a long id, a bad row and an item of their own."""
    rows = [{**row, "user_id": user if row["user_id"] == "u7" else row["user_id"]} for row in make_log()]
    own = {"user_id": user, "item_id": "i-only", "timestamp": "2024-03-10 10:00:00", "price": "1"}
    return [*rows, own, {**own, "timestamp": "never"}]


def erase(context: Context, *users: str, **options: Any) -> Outcome:
    return jobs.erase.run(context, None, jobs.erase.Options(command=users, **options), None)


def prepare_erasable(context: Context, tmp_path: Path) -> Prepared:
    """The prepared log of a shop, with a filled feature store."""
    made = prepared(context.store, write_csv(tmp_path / "log.csv", log_of()), max_bad_fraction=0.5)
    write_store(context.store.feature_store("recommender"), RECOMMENDER.features, made)
    return made


def bytes_with(root: Path, text: str) -> list[str]:
    """Files of a store that have a text, in tables as a value."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix == ".parquet":
            hit = any(text in str(value) for value in pq.read_table(path).to_pylist())
        else:
            hit = path.is_file() and text.encode() in path.read_bytes()
        found += [str(path.relative_to(root))] if hit else []
    return found
