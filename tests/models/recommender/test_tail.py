"""The boost of the tail: chosen on validation where it costs nothing overall, and absent in older models."""

from __future__ import annotations

import pytest
import torch

from jobs.cli.context import Store
from models.prepared import Prepared
from models.recommender.config import Config
from models.recommender.data import Histories, collate, dataset
from models.recommender.networks.build import build, initialise
from models.recommender.networks.recommender import BLEND_WEIGHTS, TAIL_BOOSTS, Recommender
from models.recommender.sample import write_sample
from models.recommender.schema import Schema, tail_of
from tests.kit.logs import prepared

SMALL = Config(network="two_tower", dim=16, max_length=20, precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    shop = write_sample(tmp_path_factory.mktemp("shop"), num_users=200, num_items=60, num_events=4000, seed=2)
    return prepared(Store(tmp_path_factory.mktemp("store")), shop.events, split="leave-one-out")


@pytest.fixture
def model(data: Prepared) -> Recommender:
    torch.manual_seed(0)
    schema = data.schema(Schema)
    network = build(SMALL, schema)
    initialise(network, data, schema)
    return network.eval()


def test_the_tail_is_the_rarest_items_with_a_tenth_of_the_events(data: Prepared) -> None:
    schema = data.schema(Schema).model_copy(update={"item_counts": [60, 5, 30, 0, 5]})

    assert tail_of(schema).tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("gains", "tail_gains", "num_tail", "expected"),
    [
        ({(0.3, 0.0): 8.0, (0.3, 0.5): 8.0, (0.5, 0.25): 9.0}, {(0.3, 0.5): 3.0, (0.5, 0.25): 2.0}, 100, (0.3, 0.5)),
        ({(0.3, 0.0): 8.0, (0.3, 0.5): 7.9, (0.5, 0.25): 8.1}, {(0.3, 0.5): 3.0, (0.5, 0.25): 2.0}, 100, (0.5, 0.25)),
        ({(0.3, 0.0): 8.0, (0.3, 0.5): 7.9}, {(0.3, 0.5): 3.0}, 100, (0.3, 0.0)),
        ({(0.3, 0.0): 8.0, (0.6, 0.5): 9.0}, {(0.6, 0.5): 3.0}, 99, (0.3, 0.0)),
    ],
    ids=["the best for the tail", "not at a loss for all", "none is allowed", "too few examples"],
)
def test_the_boost_is_the_best_for_the_tail_that_costs_nothing_overall(
    gains: dict[tuple[float, float], float],
    tail_gains: dict[tuple[float, float], float],
    num_tail: int,
    expected: tuple[float, float],
    model: Recommender,
) -> None:
    sums = torch.zeros(2, len(BLEND_WEIGHTS), len(TAIL_BOOSTS), dtype=torch.float64)
    for part, values in enumerate((gains, tail_gains)):
        for (weight, boost), value in values.items():
            sums[part, BLEND_WEIGHTS.index(weight), TAIL_BOOSTS.index(boost)] = value

    model.calibrate(torch.cat([sums.flatten(), torch.tensor([float(num_tail)])]))

    assert (float(model.blend), float(model.tail_boost)) == pytest.approx(expected)


def test_the_boost_raises_the_tail_and_nothing_else(data: Prepared, model: Recommender) -> None:
    schema = data.schema(Schema)
    held_out = dataset(data, "val", range(schema.num_shards), schema=schema, config=SMALL, epoch=0)
    batch = collate([held_out[place] for place in range(20)])
    assert isinstance(batch, Histories)
    before = model.scores(batch)

    model.tail_boost = torch.tensor(0.75)

    raised = model.scores(batch) - before
    is_tail = tail_of(schema)
    assert torch.allclose(raised[:, is_tail], torch.tensor(0.75), atol=1e-5)
    assert (raised[:, 1:][:, ~is_tail[1:]] == 0).all() and (before[:, 0] == -torch.inf).all()


def test_a_model_without_a_boost_of_an_earlier_release_loads(model: Recommender) -> None:
    older = {name: tensor for name, tensor in model.state_dict().items() if name != "tail_boost"}
    model.tail_boost = torch.tensor(0.75)

    model.load_state_dict(older, strict=True)

    assert float(model.tail_boost) == 0
