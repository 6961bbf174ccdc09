"""The proof that a model knows nothing of an erased user: no file quotes the id, and its data never had the user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from jobs.cli.context import Store
from jobs.erasure.data import prepared_data
from jobs.erasure.lineage import fingerprint_in, held_fingerprints
from models.erasure.erased import FOREVER, Erased, digest_of, scalars
from models.erasure.tombstones import Tombstones
from models.family import Family
from models.json_files import read_json
from models.prepared import SCHEMA

MIN_SEARCHED_BYTES = 6
"""Shorter ids occur in weights and other binary files by chance, so these are searched for longer ones only."""
ITEMS = "items"


@dataclass(frozen=True)
class Check:
    """One part of the proof."""

    name: str
    passed: bool
    found: str


def proof(store: Store, family: Family, bundle: Path, user_id: str) -> list[Check]:
    """The checks of a model directory; all of them pass if the model was trained without the user."""
    tombstones = Tombstones(store.tombstones)
    digest = tombstones.digest(user_id)
    fingerprint = fingerprint_in(bundle)
    data = {each.fingerprint: each for each in prepared_data(store, family)}
    held = held_fingerprints(tombstones, digest)
    is_item = user_id in _schema_items(bundle)
    quoted = sorted({where for path in _files(bundle) for where in quotes(path, user_id, is_item=is_item)})
    checks = [Check("the bundle does not quote the id", not quoted, ", ".join(quoted) or "in no file")]
    checks.append(Check("no data that held the user trained it", fingerprint not in held, f"trained on {fingerprint}"))
    own = data.get(fingerprint or "")
    if own is None:
        checks.append(Check("its data are here", False, "they are not in the store, so they cannot be searched"))
        return checks
    salt = tombstones.erased().salt
    erased = Erased(salt, {digest_of(user_id, salt): FOREVER})
    is_held = family.erasure is not None and bool(family.erasure.held(own, erased))
    checks.append(Check("its data have no event of the user", not is_held, str(own.path)))
    quoted = sorted({where for path in _files(own.path) for where in quotes(path, user_id, is_item=is_item)})
    checks.append(Check("its data do not quote the id", not quoted, ", ".join(quoted) or "in no file"))
    return checks


def quotes(path: Path, user_id: str, *, is_item: bool = False) -> Iterator[str]:
    """Where a file has an id: as a value of JSON or Parquet, or among the bytes of any other file.

    Item ids are no data of users. Where an item happens to have the same id (`is_item`), JSON is full of it and proves
    nothing, so only tables and other files count.
    """
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, value in content.items() if isinstance(content, dict) else [("", content)]:
            if name != ITEMS and not is_item and user_id in _texts(value):
                yield f"{path.name}: {name}"
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        for name in table.column_names:
            column = table[name].to_pylist()
            texts = (text for value in column if value for text in scalars(json.loads(value))) if name == "row" else ()
            if user_id in texts or (path.name != "items.parquet" and user_id in {str(value) for value in column}):
                yield f"{path.name}: {name}"
    elif len(user_id.encode()) >= MIN_SEARCHED_BYTES and user_id.encode() in path.read_bytes():
        yield path.name


def _schema_items(bundle: Path) -> list[str]:
    found: list[str] = read_json(bundle / SCHEMA).get(ITEMS, [])
    return found


def _texts(value: object) -> set[str]:
    """The texts of a JSON value, without numbers, which are counts."""
    if isinstance(value, dict):
        return {text for inner in value.values() for text in _texts(inner)}
    if isinstance(value, list):
        return {text for inner in value for text in _texts(inner)}
    return set(scalars(value)) if isinstance(value, str) else set()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())
