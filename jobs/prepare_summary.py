"""The summary of prepared data for people; the JSON line and the card have all facts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.erasure.erased import REASON

WIDTH = 120
MAX_CLASSES = 8
"""Classes of a label that are shown, the most frequent ones."""
QUARANTINE = "quarantine"
_ROWS = ("rows", "kept", "duplicates")


def summary_of(card: Mapping[str, Any], directory: Path, *, status: str, seconds: float) -> str:
    """Rows, bad rows by reason, what was kept, splits, joins and notes of a data card, and where the data is."""
    lines = [_rows(card), _bad(card), *_counts(card), *_splits(card)]
    lines += [_joined(name, join) for name, join in card.get("joins", {}).items()]
    if card.get("item_columns_left_out"):
        lines.append(f"columns left out, since they hold objects: {', '.join(card['item_columns_left_out'])}")
    lines += [f"- {note}" for note in card.get("notes", ())]
    wrapped = [part for line in lines for part in _wrapped(line)]
    done = {"dry-run": "not written, would be in", "ok": "data:", "unchanged": "data, the same as before:"}[status]
    return "\n".join([*wrapped, f"  {done} {directory} ({seconds:.1f} s)"])


def _rows(card: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{card[name]:,} {name}" for name in _ROWS[1:] if name in card)
    kept = kept.removesuffix("s") if card.get("duplicates") == 1 else kept
    return f"{card['rows']:,} rows read" + (f": {kept}" if kept else "")


def _bad(card: Mapping[str, Any]) -> str:
    counts = {reason: count for reason, count in card.get("bad", {}).items() if count}
    reasons = sorted(counts, key=lambda reason: -counts[reason])
    listed = ", ".join(f"{counts[reason]:,} {reason}" for reason in reasons)
    where = f"; {QUARANTINE}/ has them" + (", without those of erased users" if REASON in counts else "")
    return f"bad: {listed}{where}" if listed else "bad: none"


def _counts(card: Mapping[str, Any]) -> Iterator[str]:
    """The other counts of the card in one line, and the classes of each label."""
    counts = {name: value for name, value in card.items() if type(value) is int and value and name not in _ROWS}
    if counts:
        yield ", ".join(f"{name.replace('_', ' ')}: {value:,}" for name, value in counts.items())
    for label, classes in card.get("classes", {}).items():
        names = sorted(classes, key=lambda name: -classes[name])
        shown = ", ".join(f"{name} {classes[name]:,}" for name in names[:MAX_CLASSES])
        more = f" and {len(names) - MAX_CLASSES:,} more" if len(names) > MAX_CLASSES else ""
        yield f"{label}: {len(names):,} classes, training examples: {shown}{more}"


def _splits(card: Mapping[str, Any]) -> Iterator[str]:
    if "splits" in card:
        yield "splits: " + "; ".join(f"{name} {_split(counts)}" for name, counts in card["splits"].items())


def _split(counts: Any) -> str:
    if isinstance(counts, Mapping):
        return ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{counts:,}"


def _joined(name: str, join: Mapping[str, Any]) -> str:
    """How many ids a table of attributes has."""
    hint = f" ({join['hint']})" if join["hint"] else ""
    return (
        f"{name}: {join['matched']:,} of {join['ids']:,} ids have a row, "
        f"{join['table_matched']:,} of its {join['table_ids']:,} ids are in the data{hint}"
    )


def _wrapped(line: str) -> list[str]:
    indent = "    " if line.startswith("- ") else "      "
    return textwrap.wrap(
        line, WIDTH, initial_indent="  ", subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
