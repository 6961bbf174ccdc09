"""What a data card says about the input: what was left out, which labels are missing, what was joined."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from models.image.prepare.item_labels import ItemLabels
from models.image.prepare.layouts import Layout
from models.image.prepare.shards import Scanned


def origin(layout: Layout, scanned: Scanned, items: ItemLabels | None, join: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the card about the input."""
    explained, words = scanned.explained(), scanned.missing_words
    notes = [*layout.notes, *(explained[reason] for reason, _ in scanned.bad.most_common())]
    notes += _word_notes(words, "images")
    card: dict[str, Any] = {"left_out": layout.left_out, "missing_label_words": _by_head(words)}
    if items is not None:
        notes += items.explained().values()
        notes += _word_notes(items.missing_words, f"rows of {items.raw}")
        card |= {**join, "items_table": {**join["items_table"], "missing_label_words": _by_head(items.missing_words)}}
    return {**card, "notes": notes}


def _word_notes(words: Counter[tuple[str, str]], what: str) -> list[str]:
    return [
        f"{count:,} {what} have the label {word!r} of {head!r}, which means that the label is missing; if it is a "
        "class, rename it, e.g. to 'plain' or 'other'"
        for (head, word), count in sorted(words.items())
    ]


def _by_head(words: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    by_head: dict[str, dict[str, int]] = defaultdict(dict)
    for (head, word), count in sorted(words.items()):
        by_head[head][word] = count
    return dict(by_head)
