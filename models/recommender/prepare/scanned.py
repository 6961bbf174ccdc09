"""What a task of the scan reads, what it has seen, and how it checks rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from models.erasure.erased import NOBODY, Erased
from models.raw.ids import refuse_nested
from models.raw.quarantine import Quarantine
from models.raw.rejections import Rejections
from models.raw.tables import Chunk, Source
from models.recommender.prepare.erased_rows import since_consent
from models.recommender.prepare.events import (
    SPILL_SCHEMA,
    find_columns,
    validate,
    validate_sequences,
    with_null_columns,
)
from models.recommender.prepare.held_events import Held, Watermark, has_own_columns
from models.recommender.prepare.identity import Named, spill_logins
from models.recommender.prepare.spill import Spill

MAX_SAMPLES = 2_000


@dataclass(frozen=True)
class Scan:
    """Some files of the log, to be read, validated and partitioned by user."""

    number: int
    sources: tuple[tuple[int, Source], ...]
    """Files with their indices in the list of all files."""
    columns: Mapping[str, str]
    excluded: frozenset[str]
    now_s: float
    out: Path
    timestamp_format: str = ""
    erased: Erased = NOBODY

    @property
    def work(self) -> Path:
        """Directory of the spilled rows of all scans."""
        return self.out / "work"


@dataclass
class Scanned:
    """Counts and examples from a scan."""

    num_rows: int = 0
    num_with_event_id: int = 0
    num_erased: int = 0
    """Rows of erased users, which nothing else counts or shows."""
    num_anonymous: int = 0
    """Good rows with a session but no user."""
    named: Named = field(default_factory=Named)
    """Who they are."""
    num_repeated: int = 0
    """Rows dropped in favour of another row with the same event_id."""
    json_names: list[str] = field(default_factory=list)
    """Names in any row of JSON lines; a single row may lack some."""
    bad: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """What was inferred about files and may surprise -> the number of these files."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    """More rejected values of some reasons, from all over the log."""
    held: Held = field(default_factory=Held)
    """Events of event stores, of bad rows too."""
    watermark: Watermark = field(default_factory=Watermark)
    """What the whole log holds of event stores."""

    def add_samples(self, samples: Mapping[str, Sequence[str]]) -> None:
        """Add rejected values, up to MAX_SAMPLES per reason."""
        for reason, values in samples.items():
            known = self.samples.setdefault(reason, [])
            known += values[: MAX_SAMPLES - len(known)]


def check_rows(
    chunk: Chunk, source: Source, task: Scan, *, seen: Scanned, quarantine: Quarantine, position: int
) -> tuple[pa.Table, int]:
    """The good events of a chunk, and the position after it; counts its rows and quarantines the bad ones."""
    for reason, lines in chunk.broken.items():
        quarantine.add_lines(lines, reason=reason, source=source.path)
        seen.num_rows += len(lines)
        seen.examples.setdefault(reason, lines[0])
    for note in chunk.notes:
        seen.notes[note] = seen.notes.get(note, 0) + 1
    rows = chunk.rows
    if rows.num_rows == 0:
        return SPILL_SCHEMA.empty_table(), position
    good, rejections, rows = _validated(rows, source, task, seen=seen, notes=chunk.notes, position=position)
    seen.num_rows += rows.num_rows
    if rejections.names:
        quarantine.add_rows(
            rows.filter(pa.array(rejections.codes > 0)), reasons=rejections.reasons(), source=source.path
        )
        seen.examples = {**rejections.examples, **seen.examples}
        seen.add_samples(rejections.samples)
    return good, position + rows.num_rows


def _validated(
    rows: pa.Table, source: Source, task: Scan, *, seen: Scanned, notes: Sequence[str] = (), position: int = 0
) -> tuple[pa.Table, Rejections, pa.Table]:
    """The good events of some rows, the rejected ones, and the rows, of which a line of sequences is several."""
    if source.format == "sequences":
        return validate_sequences(rows, excluded=task.excluded, first_position=position)
    is_export = has_own_columns(rows.column_names, task.columns, source.path)
    mapping, timestamp_format = ({}, "") if is_export else (task.columns, task.timestamp_format)
    seen.held.add(rows, source.path)
    if source.format == "jsonl":
        if not is_export:
            seen.json_names = list(dict.fromkeys([*seen.json_names, *rows.column_names]))
        rows = with_null_columns(rows, mapping)
    noted = f"{source.path} ({'; '.join(notes)})" if notes else source.path
    columns = find_columns(rows.column_names, mapping, source=noted)
    refuse_nested(rows, columns, flag="--columns", source=source.path)
    good, rejections = validate(
        rows, columns, excluded=task.excluded, now_s=task.now_s, timestamp_format=timestamp_format
    )
    return good, rejections, rows


def rows_of_erased(rows: pa.Table, source: Source, task: Scan, *, seen: Scanned, logins: Spill) -> pa.Table:
    """The good events of erased users since they have consented anew; counts the others, and spills who logged in."""
    good, _, rows = _validated(rows, source, task, seen=seen)
    back = since_consent(good, task.erased) if source.format != "sequences" else good.slice(0, 0)
    spill_logins(good, logins)
    seen.num_erased += rows.num_rows - back.num_rows
    seen.num_rows += back.num_rows
    return back
