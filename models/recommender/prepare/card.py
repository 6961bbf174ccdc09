"""The card of prepared data: counts of rows, users and items, what was left out, and notes for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.erasure.erased import REASON
from models.raw.tables import Tables, without_secrets
from models.recommender.event_weights import default_weights, shown_weights
from models.recommender.prepare.event_types import Evaluated, LogTypes, types_in_card
from models.recommender.prepare.leaving_out import LeftOut
from models.recommender.prepare.partitions import Sharded, Sorted
from models.recommender.prepare.scanned import Scanned
from models.recommender.prepare.scanning import explained, inferred
from models.recommender.prepare.settings import PrepareConfig
from models.recommender.schema import Schema


def card_of(
    config: PrepareConfig,
    schema: Schema,
    scanned: Scanned,
    parts: list[Sorted],
    *,
    finished: list[Sharded],
    left_out: LeftOut,
) -> dict[str, Any]:
    """What the card counts."""
    events, users = sums(part.num_events for part in finished), sums(part.num_users for part in finished)
    fold_in = sum(part.num_fold_in_events for part in finished)
    return {
        "family": "recommender",
        "fingerprint": schema.fingerprint,
        "raw": without_secrets(config.raw),
        "rows": scanned.num_rows + scanned.num_erased,
        "kept": sum(part.num_events for part in parts),
        "duplicates": scanned.num_repeated + sum(part.num_duplicates for part in parts),
        "bad": scanned.bad | left_out.bad | ({REASON: scanned.num_erased} if scanned.num_erased else {}),
        "users": sum(part.num_users for part in parts),
        "items": schema.num_items,
        "anonymous": vars(scanned.named),
        "longest_history": max(part.longest for part in finished),
        "split": config.split,
        "val_from": schema.val_from,
        "test_from": schema.test_from,
        "splits": {name: {"events": events[name], "users": users[name]} for name in events},
        **({"fold_in_events": fold_in} if schema.split == "held-out-users" else {}),
        "left_out_events": {**left_out.rare, "collapsed": sum(part.num_collapsed for part in parts)},
        "bots": left_out.bots,
        **({"events_until": schema.events_until} if schema.events_until else {}),
    }


def card_of_types(types: LogTypes, evaluated: Evaluated, schema: Schema, finished: list[Sharded]) -> dict[str, Any]:
    """What the card says of event types; nothing for a log without."""
    if not types.names:
        return {}
    users, examples = sums(part.num_users for part in finished), sums(part.num_examples for part in finished)
    weights = shown_weights(default_weights(schema), schema)
    card = types_in_card(types, evaluated, examples, weights=weights)
    return {**card, "users_without_target": {name: users[name] - count for name, count in examples.items()}}


def card_of_files(*tables: Tables) -> dict[str, Any]:
    """What the card says of the files that were left out."""
    left_out = {what: num_files for one in tables for what, num_files in one.summary().items()}
    return {"left_out": left_out} if left_out else {}


def notes_of(card: Mapping[str, Any], scanned: Scanned, of_files: Sequence[str]) -> list[str]:
    """Notes for people: on files, event types, anonymous sessions, what was left out, the kind of log, and bad rows."""
    found = [*inferred(scanned), *scanned.watermark.notes, *of_files, *card.get("notes", ())]
    anonymous, bots, left_out = card["anonymous"], card["bots"], card["left_out_events"]
    if anonymous["events"]:
        found.append(f"{anonymous['events']:,} rows without a user are {anonymous['sessions']:,} anonymous sessions")
    if anonymous["stitched_events"]:
        found.append(f"{anonymous['stitched_events']:,} rows without a user belong to who logged in during the session")
    if bots.get("users"):
        what = "left out as likely bots; --keep-bots keeps them" if bots["are_left_out"] else "likely bots, but kept"
        found.append(f"{bots['users']:,} users with {bots['events']:,} events are {what}")
    if any(left_out.values()):
        counts = ", ".join(f"{count:,} {name}" for name, count in left_out.items() if count)
        found.append(f"events left out: {counts}")
    examples = (text for reason, text in explained(scanned).items() if scanned.examples.get(reason))
    return [*found, *_kind(card["diagnosis"]), *examples]


def sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sum of each count by name."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _kind(diagnosis: Mapping[str, Any]) -> list[str]:
    users, rates = diagnosis["events_per_user"], diagnosis["history_dependence"]
    return [
        f"the log has {users['mean']:.1f} events per user (median {users['median']:,}), "
        f"{diagnosis['events_per_item']:.1f} per item and {diagnosis['repeat_rate']:.1%} repeats",
        f"{rates['hit_rate_at_10_transitions']:.1%} of next items are among the ten usual followers of the last one, "
        f"{rates['hit_rate_at_10_popularity']:.1%} among the ten most popular",
        f"{diagnosis['cold']['test']['events_on_cold_items']:.1%} of the test events are on items new since training",
    ]
