"""The card of prepared data: counts of rows, users and items, and what was left out, by reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from models.raw.tables import Tables, without_secrets
from models.recommender.networks.event_weights import default_weights, shown_weights
from models.recommender.prepare.event_types import Evaluated, LogTypes, types_in_card
from models.recommender.prepare.partitions import Scanned, Sharded, Sorted
from models.recommender.prepare.scanning import explained, inferred
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import Schema


def card_of(
    config: PrepareConfig, schema: Schema, scanned: Scanned, parts: list[Sorted], finished: list[Sharded]
) -> dict[str, Any]:
    events, users = (
        sums(part.num_events for part in finished),
        sums(part.num_users for part in finished),
    )
    fold_in = sum(part.num_fold_in_events for part in finished)
    return {
        "family": "recommender",
        "fingerprint": schema.fingerprint,
        "raw": without_secrets(config.raw),
        "rows": scanned.num_rows,
        "kept": sum(part.num_events for part in parts),
        "duplicates": scanned.num_repeated + sum(part.num_duplicates for part in parts),
        "bad": scanned.bad,
        "users": sum(part.num_users for part in parts),
        "items": schema.num_items,
        "anonymous": vars(scanned.named),
        "longest_history": max(part.longest for part in finished),
        "split": config.split,
        "val_from": schema.val_from,
        "test_from": schema.test_from,
        "splits": {name: {"events": events[name], "users": users[name]} for name in events},
        **({"fold_in_events": fold_in} if schema.split == "held-out-users" else {}),
    }


def card_of_types(types: LogTypes, evaluated: Evaluated, schema: Schema, finished: list[Sharded]) -> dict[str, Any]:
    """What the card says of event types; nothing for a log without."""
    if not types.names:
        return {}
    users, examples = sums(part.num_users for part in finished), sums(part.num_examples for part in finished)
    weights = shown_weights(default_weights(schema), schema)
    card = types_in_card(types, evaluated, examples, weights=weights)
    return {**card, "users_without_target": {name: users[name] - count for name, count in examples.items()}}


def card_of_files(notes: Sequence[str], scanned: Scanned, *tables: Tables) -> dict[str, Any]:
    """What the card says of files: those left out, and what was inferred about the others, added to the notes."""
    left_out = {what: num_files for one in tables for what, num_files in one.summary().items()}
    noted = [*inferred(scanned), *notes, *(note for note in explained(scanned).values() if ", e.g." in note)]
    return {**({"left_out": left_out} if left_out else {}), "notes": noted}


def sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of each count by name."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total
