"""What prepare has done and found, in sentences for its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def notes(card: Mapping[str, Any]) -> list[str]:
    """Sentences for people: anonymous sessions, what was left out, and the kind of log."""
    found = []
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
    return [*found, *_kind(card["diagnosis"])]


def _kind(diagnosis: Mapping[str, Any]) -> list[str]:
    users, rates = diagnosis["events_per_user"], diagnosis["history_dependence"]
    return [
        f"the log has {users['mean']:.1f} events per user (median {users['median']:,}), "
        f"{diagnosis['events_per_item']:.1f} per item and {diagnosis['repeat_rate']:.1%} repeats",
        f"{rates['hit_rate_at_10_transitions']:.1%} of next items are among the ten usual followers of the last one, "
        f"{rates['hit_rate_at_10_popularity']:.1%} among the ten most popular",
        f"{diagnosis['cold']['test']['events_on_cold_items']:.1%} of the test events are on items new since training",
    ]
