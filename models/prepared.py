"""Prepared data on disk: the layout of its schema, card, shards and files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from models.files import write_text
from models.json_files import read_json

if TYPE_CHECKING:
    from models.family import Schema

SCHEMA, CARD = "schema.json", "card.json"
NAME_LENGTH = 16
"""Length of the fingerprint's prefix that names a prepared data directory."""
NEW, CURRENT = "new", "CURRENT"
"""Names of the unfinished data, and of the pointer to the current data, in the data directory."""
SchemaT = TypeVar("SchemaT", bound="Schema")


@dataclass(frozen=True)
class Prepared:
    """A directory written by `prepare`; two with equal fingerprints hold equal rows."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the directory: a prefix of the fingerprint."""
        return self.path.name

    @property
    def fingerprint(self) -> str:
        """sha256 of the prepared rows and the split rule."""
        return str(read_json(self.path / SCHEMA)["fingerprint"])

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return int(read_json(self.path / SCHEMA)["num_shards"])

    def schema(self, schema_class: type[SchemaT], files: tuple[str, ...] = ()) -> SchemaT:
        """The schema, with the contents of `files`, which are next to it."""
        schema: SchemaT = _schema(self.path, schema_class, files)
        return schema

    def card(self) -> dict[str, Any]:
        """The data card: counts of rows, bad rows by reason, and more."""
        return read_json(self.path / CARD)

    def shard(self, number: int) -> Path:
        """Directory of one shard."""
        return self.path / "shards" / f"{number:05d}"

    def shards(self) -> list[Path]:
        """Directories of all shards, in order."""
        return sorted((self.path / "shards").iterdir())


def events_until(data: Prepared) -> dict[str, int]:
    """Event store -> the largest number of its events that prepared data hold; empty where they hold none."""
    found: dict[str, int] = read_json(data.path / SCHEMA).get("events_until", {})
    return found


def raise_events_until(data: Prepared, found: Mapping[str, int]) -> None:
    """Note that data hold more events than they say: further ones that were only repeats, or bad rows."""
    before = events_until(data)
    merged = {store: max(before.get(store, 0), found.get(store, 0)) for store in sorted({*before, *found})}
    if merged != before:
        for name, indent in ((SCHEMA, None), (CARD, 1)):
            content = read_json(data.path / name) | {"events_until": merged}
            write_text(data.path / name, json.dumps(content, indent=indent, ensure_ascii=False))
        _schema.cache_clear()


def with_files(schema: SchemaT, directory: Path, files: tuple[str, ...]) -> SchemaT:
    """The schema with the contents of files of a directory."""
    if not files:
        return schema
    return schema.model_copy(update={"files": {name: (directory / name).read_bytes() for name in files}})


@functools.lru_cache(maxsize=8)
def _schema(path: Path, schema_class: type[SchemaT], files: tuple[str, ...]) -> SchemaT:
    schema = schema_class.model_validate_json((path / SCHEMA).read_text(encoding="utf-8"))
    return with_files(schema, path, files)
