"""Reads a raw file or folder completely, for tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from models.raw.quarantine import rows_as_json
from models.raw.tables import INFERRED, Reading, find, read


@dataclass
class Everything:
    """The rows of all files, their lines that are not rows by reason, and what was inferred."""

    rows: list[dict[str, object]] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_everything(raw: Path, reading: Reading = INFERRED) -> Everything:
    """All rows of a file or folder."""
    found = Everything()
    for source in find(str(raw), reading):
        for chunk in read(source):
            found.rows += [json.loads(row) for row in rows_as_json(chunk.rows)]
            found.notes += chunk.notes
            for reason, lines in chunk.broken.items():
                found.broken.setdefault(reason, []).extend(lines)
    return found
