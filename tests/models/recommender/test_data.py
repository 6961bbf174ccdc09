"""Evaluation examples: the target is one event of each user in the split, drawn deterministically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import dataset
from models.recommender.held_out import Example, HeldOutExamples, ShardLog
from models.recommender.schema import NUM_SHARDS, Schema
from tests.kit.logs import make_log, prepared, write_csv

SPLITS = ("val", "test")


def held_out(data: Prepared, split: str) -> tuple[list[Example], list[tuple[list[int], int, int]]]:
    """The examples of a split, and for each the user's events with the start and the end of the split among them."""
    schema = data.schema(Schema)
    opened = dataset(data, split, range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
    windows = []
    for shard in range(NUM_SHARDS):
        log = ShardLog.open(data, shard)
        for user in range(log.num_users):
            events = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
            _, val_start, test_start = log.splits[user].tolist()
            start, end = (val_start, test_start) if split == "val" else (test_start, len(events))
            if start < end:
                windows.append((events, start, end))
    examples = [example for place in range(len(opened)) if isinstance(example := opened[place], Example)]
    assert len(examples) == len(opened)
    return examples, windows


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "log.csv", make_log(3000))


@pytest.mark.parametrize("split", SPLITS)
def test_the_target_is_drawn_from_the_split_and_the_history_is_all_before_it(
    raw: Path, store: Store, split: str
) -> None:
    examples, windows = held_out(prepared(store, raw), split)
    assert len(examples) == len(windows) > 20
    shares = []
    for example, (events, start, end) in zip(examples, windows, strict=True):
        place = len(example.history)
        assert start <= place < end
        assert (list(example.history), example.target) == (events[:place], events[place])
        assert example.target_seen == (example.target in events[:place])
        shares.append((place - start + 0.5) / (end - start))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.15)
    assert min(shares) < 0.25 and max(shares) > 0.75


@pytest.mark.parametrize("split", SPLITS)
def test_the_target_is_always_the_same_for_any_set_of_shards(raw: Path, store: Store, split: str) -> None:
    data = prepared(store, raw)
    whole, again = held_out(data, split)[0], held_out(data, split)[0]
    alone = [
        examples[place]
        for shard in range(NUM_SHARDS)
        for examples in [HeldOutExamples([ShardLog.open(data, shard)], remap=None, split=split, has_target_sets=False)]
        for place in range(len(examples))
    ]
    found = [[(len(example.history), example.target) for example in examples] for examples in (whole, again, alone)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("split", "from_the_end"), [("val", 2), ("test", 1)])
def test_leave_one_out_evaluates_on_the_last_events(raw: Path, store: Store, split: str, from_the_end: int) -> None:
    examples, windows = held_out(prepared(store, raw, split="leave-one-out"), split)
    assert [(list(example.history), example.target) for example in examples] == [
        (events[:-from_the_end], events[-from_the_end]) for events, _, _ in windows
    ]


def test_held_out_users_are_evaluated_on_all_their_held_out_events(raw: Path, store: Store) -> None:
    examples, windows = held_out(prepared(store, raw, split="held-out-users"), "test")
    assert [(list(example.history), list(example.targets)) for example in examples] == [
        (events[:start], list(dict.fromkeys(events[start:end]))) for events, start, end in windows
    ]
