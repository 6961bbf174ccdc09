"""The diagnosis of the log for people: what kind of log a model was evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.networks.recommender import Recommender
from models.recommender.schema import Schema
from models.report import Section, Table

Row = tuple[str, str, str]
"""Title, value, meaning."""


def report(network: Recommender, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """A section with the diagnosis of the data; none for data of releases before 0.3.0."""
    rows = diagnosis_rows(data.card())
    if not rows:
        return ()
    table = Table("diagnosis", ("Property", "Value", "Meaning"), rows)
    return (Section("The log", "What kind of log this is, from the card of prepare.", (table,)),)


def diagnosis_rows(card: Mapping[str, Any]) -> list[Row]:
    """Title, value and meaning of each number of a card's diagnosis; empty if it has none."""
    found = card.get("diagnosis")
    if not found:
        return []
    return [*_size(card, found), *_order(found), *_types(found), *_time(found), *_change(found), *_left_out(card)]


def _size(card: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    users = found["events_per_user"]
    yield (
        "Events per user",
        f"{users['mean']:.1f} on average, median {users['median']:,}, p90 {users['p90']:,}, most {users['max']:,}",
        "Networks learn from long histories; on short ones transitions are hard to beat.",
    )
    yield "Events per item", f"{found['events_per_item']:.1f}", "Under 50, networks need more dropout."
    if sessions := found.get("sessions"):
        yield (
            "Sessions",
            f"{sessions['count']:,}, {sessions['per_user']:.1f} per user, {sessions['events']['mean']:.1f} events each",
            f"{sessions['single_event_share']:.1%} of them have a single event.",
        )
    anonymous = card["anonymous"]
    if anonymous["events"] or anonymous["stitched_events"]:
        yield (
            "Anonymous sessions",
            f"{anonymous['sessions']:,} with {anonymous['events']:,} rows",
            f"{anonymous['stitched_events']:,} other rows without a user belong to the user of their session.",
        )


def _order(found: Mapping[str, Any]) -> Iterator[Row]:
    yield (
        "Repeats",
        f"{found['repeat_rate']:.1%} of events, {found['immediate_repeat_rate']:.1%} in a row",
        "Events with an item that the user already had. Where they are many, filtering seen items hides what is "
        "bought again; many in a row are reloads, see --collapse-repeats.",
    )
    branching = found["branching"]
    yield (
        "Branching",
        f"perplexity {branching['perplexity']:.0f}, {branching['followers']:.0f} followers per item",
        "How many equally likely next items the last one leaves open, and distinct ones in training. Few events per "
        "item make it too low.",
    )
    rates = found["history_dependence"]
    yield (
        "History dependence",
        f"{rates['hit_rate_at_10_transitions']:.1%} against {rates['hit_rate_at_10_popularity']:.1%}",
        f"Next items of validation among the ten most frequent followers of the last item, and among the ten most "
        f"popular items ({rates['sampled']:,} sampled). Where they are equal, the order of events says little.",
    )


def _types(found: Mapping[str, Any]) -> Iterator[Row]:
    if types := found.get("event_types"):
        yield "Event types", ", ".join(f"{count:,} {name}" for name, count in types.items()), "Events of each type."
    if conversion := found.get("funnel", {}).get("conversion"):
        yield (
            "Funnel",
            ", ".join(f"{name} {share:.1%}" for name, share in conversion.items()),
            "Share of the (user, item) pairs of one type that also have the next, in any order.",
        )


def _time(found: Mapping[str, Any]) -> Iterator[Row]:
    if season := found.get("seasonality"):
        yield (
            "Seasonality",
            f"{season['busiest_weekday']} {season['busiest_weekday_share']:.1%}, "
            f"{season['busiest_hour']}:00 {season['busiest_hour_share']:.1%}",
            "Share of the busiest weekday and hour (UTC); evenly spread it would be 14.3 % and 4.2 %.",
        )


def _change(found: Mapping[str, Any]) -> Iterator[Row]:
    for name, cold in found["cold"].items():
        yield (
            f"Cold in {name}",
            f"{cold['users']:.1%} of users, {cold['items']:.1%} of items, {cold['events_on_cold_items']:.1%} of events",
            "Users and items without a training event, and events with such items: only attributes can rank these.",
        )
    yield (
        "Drift from train to test",
        f"{found['drift']['jensen_shannon']:.3f}, by chance {found['drift']['by_chance']:.3f}",
        "Jensen-Shannon divergence of the items' popularity in bits (0 equal, 1 disjoint), and that of as many events "
        "drawn from training. Far apart: train often.",
    )


def _left_out(card: Mapping[str, Any]) -> Iterator[Row]:
    if bots := card.get("bots"):
        limits = " or ".join(
            f"{limit:,} events in {'ten minutes' if name == 'events_in_600_s' else 'a day'}"
            for name, limit in bots.items()
            if name.startswith("events_in_")
        )
        what = "left out; --keep-bots keeps them" if bots["are_left_out"] else "kept"
        yield (
            "Likely bots",
            f"{bots['users']:,} users with {bots['events']:,} events",
            f"Users with {limits} or more, {what}.",
        )
    for name, count in card.get("left_out_events", {}).items():
        if count:
            yield f"Left out, {name.replace('_', ' ')}", f"{count:,} events", "By --min-item-events and so on."
