"""Which events of event stores a log holds: the watermark of prepared data, and gaps between exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import DataRejected
from models.events.exports import SEQ, STORE, Export, export_of, name_of
from models.raw.ids import as_text
from models.raw.tables import Source

_WHOLE = r"^[0-9]{1,18}$"


@dataclass(frozen=True, order=True)
class Span:
    """The events of one store that a file holds, from the first to the last number."""

    first: int
    until: int
    path: str
    is_exact: bool
    """By the name of an export: the file holds all events of the span that are not erased. By its rows otherwise."""


@dataclass
class Held:
    """The range of event numbers that the rows of each file have, by (store, path of the file)."""

    ranges: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, rows: pa.Table, path: str) -> None:
        """Count the rows of a file, bad ones too; raises DataRejected for a number that is none."""
        if not is_export(rows.column_names):
            return
        stores, numbers = as_text(rows[STORE].combine_chunks())[0], _numbers(rows[SEQ].combine_chunks(), path)
        halves = pc.xor(pc.is_null(stores), pc.is_null(numbers))
        if pc.any(halves).as_py():
            raise DataRejected(f"{path} has a row with only one of {SEQ} and {STORE}; export the events again")
        held = pa.table({STORE: stores, SEQ: numbers}).filter(pc.is_valid(stores))
        for row in held.group_by(STORE).aggregate([(SEQ, "min"), (SEQ, "max")]).to_pylist():
            self._widen((row[STORE], path), row[f"{SEQ}_min"], row[f"{SEQ}_max"])

    def merge(self, other: Held) -> None:
        """Add what other files hold."""
        for key, (first, until) in other.ranges.items():
            self._widen(key, first, until)

    def _widen(self, key: tuple[str, str], first: int, until: int) -> None:
        known = self.ranges.get(key, (first, until))
        self.ranges[key] = min(first, known[0]), max(until, known[1])


@dataclass(frozen=True)
class Watermark:
    """What a log holds of event stores, and what is noteworthy about it."""

    events_until: Mapping[str, int] = field(default_factory=dict)
    """Store -> the largest number of its events."""
    notes: Sequence[str] = ()


def is_export(names: Sequence[str]) -> bool:
    """Whether a table has the columns of exported events."""
    return SEQ in names and STORE in names


def has_own_columns(names: Sequence[str], mapping: Mapping[str, str], path: str) -> bool:
    """Whether a file of a log is an export with our column names, next to files that need a mapping or a time format.

    One that the shop has renamed and merged with its own log has the columns of the mapping.
    """
    is_named = export_of(PurePosixPath(path).name) is not None
    return is_export(names) and (is_named or any(theirs not in names for theirs in mapping.values()))


def watermark(sources: Sequence[Source], held: Held, *, accept_gaps: bool) -> Watermark:
    """The watermark of a log; raises DataRejected if an export between two others is missing.

    The watermark is one number per store: an event below it that is in no file would be neither learned from nor
    served. A gap is certain between two files that have the names of exports. Without such names it may be events that
    were erased, and what is missing before the first file may have been left out on purpose: both are only noted.
    """
    exports = {source.path: found for source in sources if (found := export_of(PurePosixPath(source.path).name))}
    spans: dict[str, list[Span]] = {}
    notes = []
    for path, export in exports.items():
        spans.setdefault(export.store_id, []).append(Span(export.first, export.until, path, is_exact=True))
        _, last = held.ranges.get((export.store_id, path), (0, 0))
        if last != export.until:
            notes.append(f"{path} ends with event {last} before {export.until}: rows were removed, or it is truncated")
    for (store_id, path), (first, until) in held.ranges.items():
        if path not in exports or exports[path].store_id != store_id:
            spans.setdefault(store_id, []).append(Span(first, until, path, is_exact=False))
    for store_id, of_store in sorted(spans.items()):
        notes += _gaps(store_id, sorted(of_store), accept_gaps=accept_gaps)
    return Watermark({store: max(span.until for span in found) for store, found in sorted(spans.items())}, notes)


def _gaps(store_id: str, spans: Sequence[Span], *, accept_gaps: bool) -> list[str]:
    """Notes on the gaps between the spans of a store; raises DataRejected for a certain one."""
    notes = []
    last = Span(0, 0, "", is_exact=False)
    for span in spans:
        if span.first > last.until + 1:
            missing = f"events {last.until + 1} to {span.first - 1} of the store {store_id}"
            if not last.path:
                notes.append(f"{missing} are in no file of the log, as before an export that was left out on purpose")
            elif last.is_exact and span.is_exact and not accept_gaps:
                raise DataRejected(_missing_export(missing, store_id, last, span))
            else:
                notes.append(f"{missing} are in no file of the log: they were erased, or an export is missing")
        if span.until >= last.until:
            last = span
    return notes


def _missing_export(missing: str, store_id: str, last: Span, following: Span) -> str:
    suffix = PurePosixPath(following.path).suffix.lstrip(".")
    name = name_of(Export(store_id, last.until + 1, following.first - 1), suffix)
    return (
        f"{missing} are missing between {PurePosixPath(last.path).name} and {PurePosixPath(following.path).name}: "
        f"add the file {name}, or export all events again (`shopkeeper events export --all --to FOLDER`); "
        "--accept-gaps goes on without them, and they are then neither learned from nor served"
    )


def _numbers(column: pa.Array, path: str) -> pa.Array:
    """The numbers of events, null where there is none."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    text = as_text(column)[0]
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(text, _WHOLE)), False)
    if pc.any(wrong).as_py():
        example = text.filter(wrong)[0].as_py()
        raise DataRejected(f"{path} has the {SEQ} {example!r}, which is no whole number; export the events again")
    return text.cast(pa.int64())
