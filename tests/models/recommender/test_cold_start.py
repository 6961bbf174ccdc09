"""How items without events are placed among the others: by what is like them, within a budget."""

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
from models.recommender.data import Example, Histories, collate
from models.recommender.networks.build import build
from models.recommender.networks.cold_start import MAX_LOSS, OFFSETS, Newcomers
from models.recommender.networks.item_features import NEIGHBOURS, StandIns
from models.recommender.networks.ranking import gains
from models.recommender.schema import Schema
from tests.kit.logs import ITEMS_OF_KIND, KINDS, shop_of_kinds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return shop_of_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def schema(data: Prepared) -> Schema:
    return data.schema(Schema)


def newcomers(schema: Schema, alike: dict[int, dict[int, float]]) -> Newcomers:
    """Those of a schema, each like some items with given shares."""
    placed = Newcomers(schema)
    items, shares = np.zeros((len(placed.items), NEIGHBOURS), np.int64), np.zeros((len(placed.items), NEIGHBOURS))
    for row, item in enumerate(placed.items.tolist()):
        for column, (other, share) in enumerate(alike.get(item, {}).items()):
            items[row, column], shares[row, column] = other, share
    placed.set(StandIns(placed.items.numpy(), items, shares.astype(np.float32)))
    return placed


def some_scores(schema: Schema, num_examples: int) -> tuple[torch.Tensor, Histories]:
    """Random scores and histories of items with events, the target another."""
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
def test_what_nobody_has_taken_is_among_the_first_for_those_who_take_its_like(
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


def test_a_new_item_stands_where_what_it_is_like_does(schema: Schema) -> None:
    first, second, third = (schema.index[item] for item in ("tea0", "tools0", "toys0"))
    tea, tools, toys = (schema.index[f"{kind}{ITEMS_OF_KIND - 1}"] for kind in ("tea", "tools", "toys"))
    placed = newcomers(schema, {tea: {first: 1.0}, tools: {second: 1.0}, toys: {second: 0.5, third: 0.5}})
    scores, batch = some_scores(schema, 1)
    scores[0, [first, second, third]] = torch.tensor([5.0, 3.0, 1.0])
    batch = dataclasses.replace(batch, items=torch.tensor([[third]]), lengths=torch.tensor([1]))

    found = placed.place(scores.clone(), batch)[0]

    others = torch.ones_like(found, dtype=torch.bool).index_fill_(0, placed.items, False)
    assert torch.allclose(found[others].exp().sum(), torch.tensor(1.0))
    assert torch.allclose(found[tea] - placed.offset, found[first], atol=1e-4)
    assert found[tea] > found[tools] > found[placed.items].min()
    assert torch.allclose((found[toys] - placed.offset).exp(), (found[second].exp() + found[third].exp() + 0.1) / 2)


def test_the_room_is_what_the_others_find_and_keep(schema: Schema) -> None:
    scores, batch = some_scores(schema, 40)
    known = [item for item, count in enumerate(schema.item_counts, 1) if count]
    draw = random.Random(0)
    new = Newcomers(schema).items.tolist()
    placed = newcomers(schema, {item: dict.fromkeys(draw.sample(known, 4), 0.25) for item in new})

    gained, kept = placed.room(scores.clone(), batch)

    bare = scores.index_fill(1, placed.items, -torch.inf)
    assert gained[0].item() == pytest.approx(float(gains(batch, bare).sum()))
    assert kept[0] == 40 * 10
    for place in range(0, len(OFFSETS), 8):
        placed.offset = torch.tensor(OFFSETS[place])
        ranked = placed.place(scores.clone(), batch)
        top = ranked.scatter(1, batch.excluded, -torch.inf).topk(10).indices
        assert gained[place + 1].item() == pytest.approx(float(gains(batch, ranked).sum()), rel=1e-5)
        assert kept[place + 1] == (~torch.isin(top, placed.items)).sum()
    assert gained[-1] < gained[0]


def test_the_room_of_shoppers_who_take_several_items_is_that_of_their_ndcg(schema: Schema) -> None:
    scores, batch = some_scores(schema, 30)
    sets = torch.stack([batch.targets, batch.targets % schema.num_items + 1, torch.full_like(batch.targets, -1)], 1)
    seen = (sets[:, :, None] == batch.items[:, None, :]).any(2)
    batch = dataclasses.replace(batch, target_sets=sets, target_sets_seen=seen)
    placed = newcomers(schema, {})

    gained, _ = placed.room(scores.clone(), batch)

    bare = scores.index_fill(1, placed.items, -torch.inf)
    assert gained[0].item() == pytest.approx(float(gains(batch, bare).sum()), rel=1e-5)


def test_the_budget_is_what_the_others_may_lose_and_the_share_of_the_catalogue(schema: Schema) -> None:
    placed = newcomers(schema, {})
    steps = torch.arange(len(OFFSETS) + 1, dtype=torch.float64)

    placed.choose(torch.stack([1000 - steps, torch.full_like(steps, 500)]))
    assert float(placed.offset) == OFFSETS[round(MAX_LOSS * 1000) - 1]

    placed.choose(torch.stack([torch.full_like(steps, 1000), 500 - steps]))
    assert float(placed.offset) == OFFSETS[int(placed.share_of_catalogue * 500) - 1]

    placed.choose(torch.stack([torch.full_like(steps, 1000), torch.full_like(steps, 500)]))
    assert float(placed.offset) == OFFSETS[-1]


def test_there_are_none_where_every_item_has_events_or_nothing_is_said_of_them(schema: Schema) -> None:
    taken = schema.model_copy(update={"item_counts": [count + 1 for count in schema.item_counts]})
    silent = schema.model_copy(update={"num_features": 0})

    assert build(Config(), schema).newcomers is not None
    assert build(Config(), taken).newcomers is None
    assert build(Config(), silent).newcomers is None
    assert build(Config(network="item_knn"), schema).newcomers is None
