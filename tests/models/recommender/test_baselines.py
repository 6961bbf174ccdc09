"""The baselines: item-kNN has its textbook similarities and is tuned on validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender.networks.baselines import Neighbourhood, _co_counts, _similarities, count_neighbours
from models.recommender.networks.transitions import Shape, Transitions, Tuned, ndcg, popularity_of, tuning_examples
from models.recommender.sample import write_sample
from models.recommender.schema import Schema
from tests.kit.logs import prepared

COSINE = Neighbourhood(decay=1.0, asymmetry=0.5, shrink=0.0, neighbours=100)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    shop = write_sample(tmp_path_factory.mktemp("shop"), num_users=300, num_items=80, num_events=6000, seed=1)
    return prepared(Store(tmp_path_factory.mktemp("store")), shop.events, split="leave-one-out")


def test_users_of_both_items_are_counted_once_each_in_the_training_split(tmp_path: Path) -> None:
    # Leave-one-out keeps all but the last two events of a user for training: a b, a b a, and b c.
    log = {"u1": "a b x y", "u2": "a b a x y", "u3": "b c x y"}
    raw = tmp_path / "log.txt"
    raw.write_text("\n".join(f"{user} {items}" for user, items in log.items()))
    data = prepared(Store(tmp_path / "store"), raw, split="leave-one-out")
    schema = data.schema(Schema)

    both, num_users = _co_counts(data, schema)

    a, b, c = (schema.index[item] for item in "abc")
    assert (both[a, b], both[b, a], both[b, c], both[a, c], both[a, a]) == (2, 2, 1, 0, 0)
    assert [num_users[item] for item in (a, b, c)] == [2, 3, 1]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (COSINE, 6 / np.sqrt(9 * 16)),
        (dataclasses.replace(COSINE, shrink=12.0), 6 / (12 + 12)),
        (dataclasses.replace(COSINE, asymmetry=1.0), 6 / 9),
    ],
    ids=["cosine", "shrunk", "conditional probability"],
)
def test_the_similarity_of_two_items_is_that_of_the_textbook(shape: Neighbourhood, expected: float) -> None:
    both = sp.csr_array(np.array([[0, 0, 0], [0, 0, 6], [0, 6, 0]], np.float32))

    found = _similarities(both, np.array([1.0, 9.0, 16.0]), shape)

    assert found[1, 2] == pytest.approx(expected)


def test_only_the_nearest_neighbours_of_an_item_are_kept() -> None:
    both = sp.csr_array(np.array([[0, 3, 1, 2], [3, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]], np.float32))

    found = _similarities(both, np.ones(4), dataclasses.replace(COSINE, neighbours=2))

    assert found.toarray().tolist() == [[0, 3, 0, 2], [3, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]]


def test_tuning_finds_that_the_last_events_matter_most(data: Prepared) -> None:
    schema = data.schema(Schema)
    network, examples = Transitions(schema.num_items), tuning_examples(data, schema)
    both, num_users = _co_counts(data, schema)

    shape = count_neighbours(data, schema, network)

    popularity = popularity_of(schema)
    tuned, plain = (
        ndcg(Tuned(_similarities(both, num_users, each), popularity, Shape(decay=each.decay), None), examples)
        for each in (shape, COSINE)
    )
    assert shape.decay < 1 and tuned > 1.2 * plain
    assert float(network.decay) == pytest.approx(shape.decay)


def test_transitions_and_item_knn_are_baselines_after_the_trivial_one() -> None:
    assert list(FAMILY.baselines) == ["popularity", "item_knn", "transitions"]
