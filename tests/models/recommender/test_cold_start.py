"""Cold-start items: scored by their nearest neighbours, and ranked no higher than the other items can afford."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender.config import Config
from models.recommender.data import Histories, collate
from models.recommender.held_out import Example
from models.recommender.item_features import NUM_NEIGHBOURS, NearestNeighbours
from models.recommender.networks.build import build, initialise
from models.recommender.networks.cold_start import MAX_NDCG_DROP, OFFSETS, ColdStartItems
from models.recommender.networks.ranking import gains
from models.recommender.schema import Schema
from tests.kit.logs import ITEMS_OF_KIND, KINDS, shop_of_kinds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return shop_of_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def schema(data: Prepared) -> Schema:
    return data.schema(Schema)


def cold_start_items(schema: Schema, neighbours: dict[int, dict[int, float]]) -> ColdStartItems:
    """Those of a schema, each with some neighbours of given weights."""
    cold_start = ColdStartItems(schema)
    shape = (len(cold_start.items), NUM_NEIGHBOURS)
    items, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for row, item in enumerate(cold_start.items.tolist()):
        for column, (other, weight) in enumerate(neighbours.get(item, {}).items()):
            items[row, column], weights[row, column] = other, weight
    cold_start.set(NearestNeighbours(cold_start.items.numpy(), items, weights))
    return cold_start


def some_scores(schema: Schema, num_examples: int) -> tuple[torch.Tensor, Histories]:
    """Random scores, and histories and targets among the items with events."""
    draw = np.random.default_rng(0)
    known = np.flatnonzero(np.asarray([0, *schema.item_counts]))
    examples = []
    for _ in range(num_examples):
        *history, target = draw.choice(known, 4, replace=False).tolist()
        examples.append(Example(history=history, excluded=history, target=target))
    scores = torch.from_numpy(draw.normal(size=(num_examples, schema.num_items + 1), scale=2).astype(np.float32))
    scores[:, 0] = -torch.inf
    batch = collate(examples)
    assert isinstance(batch, Histories)
    return scores, batch


@pytest.mark.parametrize(
    ("network", "blend"), [("transformer", True), ("transformer", False), ("autoencoder", True), ("transitions", True)]
)
def test_a_cold_start_item_is_among_the_first_for_users_of_similar_items(
    network: Any, blend: bool, data: Prepared, tmp_path: Path
) -> None:
    config = Config(network=network, blend=blend, dim=16, max_length=10, batch_size=16, epochs=6, precision="fp32")
    trained = run_training(
        FAMILY, config=config, data=data, directory=tmp_path, worker=WorkerContext(), report=lambda _: None
    )
    loaded = bundle.load(trained.best, FAMILY)
    schema: Schema = loaded.schema

    for kind in KINDS:
        history = [schema.index[f"{kind}{place}"] for place in (1, 2, 3)]
        example = Example(history=history, excluded=history, count=ITEMS_OF_KIND - 3)
        answer = loaded.network.predict(collate([example]))[0]
        found = {schema.items[item - 1] for item in answer.items}
        assert f"{kind}{ITEMS_OF_KIND - 1}" in found
        assert all(item.startswith(kind) for item in found)


def test_a_cold_start_item_scores_like_its_neighbours(schema: Schema) -> None:
    first, second, third = (schema.index[item] for item in ("tea0", "tools0", "toys0"))
    tea, tools, toys = (schema.index[f"{kind}{ITEMS_OF_KIND - 1}"] for kind in ("tea", "tools", "toys"))
    cold_start = cold_start_items(schema, {tea: {first: 1.0}, tools: {second: 1.0}, toys: {second: 0.5, third: 0.5}})
    scores, batch = some_scores(schema, 1)
    scores[0, [first, second, third]] = torch.tensor([5.0, 3.0, 1.0])
    batch = dataclasses.replace(batch, items=torch.tensor([[third]]), lengths=torch.tensor([1]))

    found = cold_start.fill_scores(scores.clone(), batch)[0]

    others = torch.ones_like(found, dtype=torch.bool).index_fill_(0, cold_start.items, False)
    assert torch.allclose(found[others].exp().sum(), torch.tensor(1.0))
    assert torch.allclose(found[tea] - cold_start.offset, found[first], atol=1e-4)
    assert found[tea] > found[tools] > found[cold_start.items].min()
    assert torch.allclose((found[toys] - cold_start.offset).exp(), (found[second].exp() + found[third].exp() + 0.1) / 2)


def test_calibration_sums_the_ndcg_and_the_top_ranks_of_the_other_items(schema: Schema) -> None:
    scores, batch = some_scores(schema, 40)
    known = [item for item, count in enumerate(schema.item_counts, 1) if count]
    draw = random.Random(0)
    cold = ColdStartItems(schema).items.tolist()
    cold_start = cold_start_items(schema, {item: dict.fromkeys(draw.sample(known, 4), 0.25) for item in cold})

    gained, kept = cold_start.calibration(scores.clone(), batch)

    bare = scores.index_fill(1, cold_start.items, -torch.inf)
    assert gained[0].item() == pytest.approx(float(gains(batch, bare).sum()))
    assert kept[0] == 40 * 10
    for place in range(0, len(OFFSETS), 8):
        cold_start.offset = torch.tensor(OFFSETS[place])
        ranked = cold_start.fill_scores(scores.clone(), batch)
        top = ranked.scatter(1, batch.excluded, -torch.inf).topk(10).indices
        assert gained[place + 1].item() == pytest.approx(float(gains(batch, ranked).sum()), rel=1e-5)
        assert kept[place + 1] == (~torch.isin(top, cold_start.items)).sum()
    assert gained[-1] < gained[0]


def test_calibration_sums_the_ndcg_of_several_targets(schema: Schema) -> None:
    scores, batch = some_scores(schema, 30)
    sets = torch.stack([batch.targets, batch.targets % schema.num_items + 1, torch.full_like(batch.targets, -1)], 1)
    seen = (sets[:, :, None] == batch.items[:, None, :]).any(2)
    batch = dataclasses.replace(batch, target_sets=sets, target_sets_seen=seen)
    cold_start = cold_start_items(schema, {})

    gained, _ = cold_start.calibration(scores.clone(), batch)

    bare = scores.index_fill(1, cold_start.items, -torch.inf)
    assert gained[0].item() == pytest.approx(float(gains(batch, bare).sum()), rel=1e-5)


def test_the_offset_is_limited_by_the_ndcg_of_the_others_and_by_the_share_of_the_catalogue(schema: Schema) -> None:
    cold_start = cold_start_items(schema, {})
    steps = torch.arange(len(OFFSETS) + 1, dtype=torch.float64)

    cold_start.calibrate(torch.stack([1000 - steps, torch.full_like(steps, 500)]))
    assert float(cold_start.offset) == OFFSETS[round(MAX_NDCG_DROP * 1000) - 1]

    cold_start.calibrate(torch.stack([torch.full_like(steps, 1000), 500 - steps]))
    assert float(cold_start.offset) == OFFSETS[int(cold_start.share_of_catalogue * 500) - 1]

    cold_start.calibrate(torch.stack([torch.full_like(steps, 1000), torch.full_like(steps, 500)]))
    assert float(cold_start.offset) == OFFSETS[-1]


def test_there_are_none_where_every_item_has_events_or_there_are_no_features(schema: Schema) -> None:
    all_with_events = schema.model_copy(update={"item_counts": [count + 1 for count in schema.item_counts]})
    without_features = schema.model_copy(update={"num_features": 0})

    assert build(Config(), schema).cold_start is not None
    assert build(Config(), all_with_events).cold_start is None
    assert build(Config(), without_features).cold_start is None
    assert build(Config(network="item_knn"), schema).cold_start is None


def test_weights_with_the_tensor_names_of_release_0_1_are_loaded(data: Prepared, schema: Schema) -> None:
    trained, loaded = (build(Config(dim=8), schema) for _ in range(2))
    initialise(trained, data, schema)
    now = {
        "cold_start.neighbours": "newcomers.alike",
        "cold_start.weights": "newcomers.shares",
        "cold_start.offset": "newcomers.offset",
        "learner.items.neighbours": "learner.items.alike",
        "learner.items.neighbour_weights": "learner.items.shares",
    }
    stored = {now.get(name, name): tensor for name, tensor in trained.state_dict().items()}
    assert set(now.values()) <= set(stored)

    loaded.load_state_dict(stored)

    assert loaded.state_dict().keys() == trained.state_dict().keys()
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in loaded.state_dict().items())
