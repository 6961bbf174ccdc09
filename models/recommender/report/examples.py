"""The report section with example lists: what a few users did, what was recommended and why, and what followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow.parquet as pq

from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, collate, dataset
from models.recommender.held_out import Example, HeldOutExamples
from models.recommender.networks.recommender import Prediction, Recommender
from models.recommender.schema import PADDING, Schema
from models.report import Content, Section, Table
from models.sampling import evenly

NUM_EXAMPLES = 6
"""They have histories of different lengths: of the sampled examples in order of length, every n-th."""
NUM_SAMPLED = 300
NUM_RECOMMENDED = 5
NUM_EVENTS = 8
"""Latest events of a history that are shown."""
TITLE = "title"
ITEMS = "items.parquet"


def report(network: Recommender, data: Prepared, split: str, *, schema: Schema, config: Config) -> Sequence[Section]:
    """The section, without user ids; none for a split without histories."""
    held_out = dataset(data, split, range(data.num_shards), schema=schema, config=config, epoch=0)
    assert isinstance(held_out, HeldOutExamples)
    sampled = sorted(
        (example for example in evenly(held_out, NUM_SAMPLED) if len(example.history)),
        key=lambda example: len(example.history),
    )
    if not sampled:
        return ()
    step = max(1, len(sampled) // NUM_EXAMPLES)
    examples = [replace(each, count=NUM_RECOMMENDED) for each in sampled[step // 2 :: step][:NUM_EXAMPLES]]
    batch = collate(examples)
    assert isinstance(batch, Histories)
    titles = _titles(data, schema)
    content: list[Content] = []
    for number, (example, prediction) in enumerate(zip(examples, network.predict(batch), strict=True), 1):
        content += _example(number, example, prediction, titles, types=schema.event_types)
    reading = (
        "The top of the lists of a few users, with histories from short to long. They are chosen by their position in "
        f"the data and not by their results. {_seen(data.schema(Schema))}"
    )
    return (Section("Examples", reading, content),)


def _seen(schema: Schema) -> str:
    """Which items of a history are left out, by the types of the data."""
    if schema.seen_types is None:
        return "Items in the history are not recommended."
    if not schema.seen_types:
        return "Items in the history may be recommended, since repeats count (--seen none)."
    names = ", ".join(schema.seen_types)
    return f"Items of the history with an event of a seen type ({names}) are not recommended; others may be."


def _titles(data: Prepared, schema: Schema) -> list[str]:
    """The title of each item of the model's vocabulary by index; its id where there is none."""
    found: dict[str, str] = {}
    if (data.path / ITEMS).is_file() and TITLE in pq.read_schema(data.path / ITEMS).names:
        table = pq.read_table(data.path / ITEMS, columns=["item_id", TITLE])
        pairs = zip(table.column("item_id").to_pylist(), table.column(TITLE).to_pylist(), strict=True)
        found = {item: str(title) for item, title in pairs if title is not None}
    return ["an item unknown to the model", *(found.get(item, item) for item in schema.items)]


def _example(
    number: int, example: Example, prediction: Prediction, titles: Sequence[str], *, types: Sequence[str]
) -> list[Content]:
    followed = list(example.targets) or [example.target]
    shown = _latest(example, titles, types)
    earlier = len(example.history) - len(shown)
    rows = [
        [
            rank,
            titles[item],
            "popular" if reason == PADDING else titles[reason],
            "followed" if item in followed else "",
        ]
        for rank, (item, reason) in enumerate(zip(prediction.items, prediction.explanations, strict=True), 1)
    ]
    history = f"{f'{earlier:,} earlier events; ' if earlier else ''}{'; '.join(shown)}"
    next_items = "; ".join(titles[item] for item in followed[:NUM_RECOMMENDED])
    return [
        Table(f"example_{number}", ["rank", "recommended", "because of", "what followed"], rows, f"Example {number}"),
        f"History, latest last: {history}. What followed: {next_items}.",
    ]


def _latest(example: Example, titles: Sequence[str], types: Sequence[str]) -> list[str]:
    """The latest events of the history, with their types if the model knows types."""
    shown = [titles[item] for item in example.history[-NUM_EVENTS:]]
    if example.types is None:
        return shown
    codes = example.types[-NUM_EVENTS:]
    return [f"{title} ({types[code - 1]})" if code else title for title, code in zip(shown, codes, strict=True)]
