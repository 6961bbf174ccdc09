"""Pairs of events sharpen the transitions where what follows depends on two events, else they are left out."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, collate
from models.recommender.event_weights import training_events
from models.recommender.held_out import Example
from models.recommender.networks import event_pairs
from models.recommender.networks.build import build, initialise
from models.recommender.networks.event_pairs import EventPairs, count_event_pairs
from models.recommender.networks.transitions import Transitions, gains_of, tuning_examples
from models.recommender.schema import Schema
from tests.kit.logs import prepared, write_csv

NUM_ITEMS = 24


def follower(earlier: int, last: int) -> int:
    """What follows two items: as likely to be any item if only the last one is known."""
    return (earlier + 7 * last + 3) % NUM_ITEMS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A log in which the next item depends on the last two."""
    draw, rows = random.Random(0), []
    for user in range(250):
        items = [draw.randrange(NUM_ITEMS), draw.randrange(NUM_ITEMS)]
        while len(items) < 24:
            items.append(follower(*items[-2:]) if draw.random() < 0.9 else draw.randrange(NUM_ITEMS))
        for place, item in enumerate(items):
            rows.append({"user_id": f"u{user}", "item_id": f"i{item:02d}", "timestamp": 1_700_000_000 + 60 * place})
    log = write_csv(tmp_path_factory.mktemp("pairs") / "log.csv", rows)
    return prepared(Store(tmp_path_factory.mktemp("store")), log, split="leave-one-out", seen=("none",))


@pytest.fixture(scope="module")
def prior(data: Prepared) -> Transitions:
    return counted(data)


def counted(data: Prepared) -> Transitions:
    """The transitions of prepared data."""
    schema = data.schema(Schema)
    network = build(Config(network="transitions"), schema)
    initialise(network, data, schema)
    assert isinstance(network.prior, Transitions)
    return network.prior


def test_what_depends_on_two_events_is_found(data: Prepared, prior: Transitions) -> None:
    examples = tuning_examples(data, data.schema(Schema))
    with_pairs = gains_of(prior, examples).mean()
    pairs, prior.pairs = prior.pairs, EventPairs(NUM_ITEMS)

    without = gains_of(prior, examples).mean()

    prior.pairs = pairs
    assert len(pairs.keys) and float(pairs.share) > 0
    assert with_pairs > 1.3 * without


def test_counts_are_those_of_a_plain_loop_in_any_number_of_passes(
    data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = data.schema(Schema)
    expected: dict[tuple[int, int, int], float] = {}
    for items, user, _ in training_events(data, schema):
        for last in range(len(items)):
            for g in range(1, event_pairs.MAX_DISTANCE + 1):
                for f in range(1, event_pairs.WINDOW + 1):
                    if last - g >= 0 and last + f < len(items) and user[last - g] == user[last + f]:
                        triple = (int(items[last - g]), int(items[last]), int(items[last + f]))
                        expected[triple] = expected.get(triple, 0) + 1 / (f * g)
    wanted = {triple: weight for triple, weight in expected.items() if weight >= event_pairs.MIN_WEIGHT - 1e-6}

    for at_once in (10**9, 10_000):
        monkeypatch.setattr(event_pairs, "COUNTED_AT_ONCE", at_once)
        counts = count_event_pairs(data, schema)
        assert counts is not None
        keys, starts, columns, weights = counts
        owner = np.repeat(keys, np.diff(starts))
        size = schema.num_items + 1
        found = {
            (int(key) // size, int(key) % size, int(item)): float(weight)
            for key, item, weight in zip(owner, columns, weights, strict=True)
        }
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_history_without_a_known_pair_keeps_its_scores() -> None:
    pairs = EventPairs(5)
    keys, starts = np.array([1 * 6 + 2]), np.array([0, 1])
    pairs.set((keys, starts, np.array([3], np.int32), np.array([4.0], np.float32)), shrink=4.0, share=0.5)
    batch = collate([Example(history=[4, 2]), Example(history=[1, 2]), Example(history=[]), Example(history=[2])])
    assert isinstance(batch, Histories)
    scores = torch.full((4, 6), 1 / 6)

    mixed = pairs.mixed_into(scores.clone(), batch)

    assert torch.equal(mixed[[0, 2, 3]], scores[[0, 2, 3]])
    assert mixed[1].tolist() == pytest.approx([0.75 / 6] * 3 + [0.75 / 6 + 0.25] + [0.75 / 6] * 2)


def test_a_log_that_is_too_large_does_without(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_pairs, "MAX_EVENTS", 100)

    assert count_event_pairs(data, data.schema(Schema)) is None


def test_only_the_most_frequent_followers_are_kept(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = data.schema(Schema)
    everything = count_event_pairs(data, schema)
    monkeypatch.setattr(event_pairs, "MAX_FOLLOWERS", 500)

    kept = count_event_pairs(data, schema)

    assert everything is not None and kept is not None
    assert 0 < len(kept[3]) <= 500 and kept[3].min() > np.sort(everything[3])[-501]


def test_a_log_of_pairs_of_no_use_gives_a_model_without(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{draw.randrange(40)}", "timestamp": 1_700_000_000 + 60 * place}
        for user in range(150)
        for place in range(8)
    ]
    data = prepared(Store(tmp_path), write_csv(tmp_path / "log.csv", rows), split="leave-one-out")

    assert len(counted(data).pairs.keys) == 0
