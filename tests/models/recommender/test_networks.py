"""The recommender's networks: causal, able to learn known transitions, and exact in their ranking."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.cli.context import Store
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.metrics import gini, rank_of, rank_without
from models.nn.layers import Dropout, linear_cross_entropy
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender.config import Config
from models.recommender.data import Histories, Row, Rows, collate, dataset
from models.recommender.held_out import Example, ShardLog
from models.recommender.networks.build import build, initialise
from models.recommender.networks.next_item import NextItem
from models.recommender.networks.ranking import CUTOFFS, Blends, gains, gains_of_blends
from models.recommender.networks.recommender import BLEND_WEIGHTS, TAIL_BOOSTS, Recommender, _blend
from models.recommender.networks.transitions import LAST_EVENTS, Transitions
from models.recommender.sample import Shop, write_sample
from models.recommender.schema import Schema, tail_of
from tests.conftest import CHECKOUT
from tests.kit.logs import prepared

SEQUENTIAL = ("transformer", "gru", "two_tower")
TRAINED = (*SEQUENTIAL, "autoencoder", "gan")
SMALL = Config(dim=16, max_length=20, batch_size=16, epochs=3, precision="fp32")
GOLDEN = CHECKOUT / "tests" / "golden" / "losses"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return write_sample(tmp_path_factory.mktemp("shop"), num_users=400, num_items=120, num_events=12_000, seed=3)


@pytest.fixture(scope="module")
def data(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    store = Store(tmp_path_factory.mktemp("store"))
    return prepared(store, shop.events, items=str(shop.items), split="leave-one-out")


@pytest.fixture(scope="module")
def schema(data: Prepared) -> Schema:
    return data.schema(Schema)


def rows(data: Prepared, schema: Schema, config: Config, *, epoch: int = 1) -> list[Row]:
    opened = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=epoch)
    return [row for place in range(len(opened)) if isinstance(row := opened[place], Row)]


def plain_schema(*, num_items: int) -> Schema:
    return Schema(
        family="recommender",
        fingerprint="0" * 64,
        num_shards=1,
        num_examples={"train": 3200},
        split="leave-one-out",
        items=[f"i{place:03d}" for place in range(num_items)],
        item_counts=[3200 // num_items] * num_items,
        item_first_seen=[0] * num_items,
        train_until=1,
    )


def synthetic_rows(*, seed: int, num_items: int) -> Rows:
    """Eight rows of two users each, whose next item is mostly the next number; independent of the synthetic shop."""
    draw = np.random.default_rng(seed)
    steps = np.where(draw.random((8, 21)) < 0.8, 1, draw.integers(2, num_items, (8, 21)))
    events = torch.from_numpy((draw.integers(0, num_items, (8, 1)) + steps.cumsum(1)) % num_items + 1)
    segments = torch.tensor([[1] * 8 + [2] * 12] * 8)
    return Rows(items=events[:, :-1].clone(), targets=events[:, 1:].clone(), segments=segments)


def histories(examples: Sequence[Example]) -> Histories:
    batch = collate(examples)
    assert isinstance(batch, Histories)
    return batch


def built(network: Any, schema: Schema, data: Prepared, **changes: Any) -> Recommender:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, network=network, **changes)
    model = build(config, schema)
    initialise(model, data, schema)
    return model.eval()


def test_an_epoch_has_every_pair_of_events_once_and_less_than_five_percent_padding(
    data: Prepared, schema: Schema
) -> None:
    packed = rows(data, schema, SMALL)

    pairs = [pair for row in packed for pair in zip(row.items, row.targets, strict=True) if pair[1]]
    expected = []
    for shard in range(schema.num_shards):
        log = ShardLog.open(data, shard)
        for user in range(log.num_users):
            events = log.items[log.offsets[user] : log.offsets[user] + log.splits[user, 0]]
            expected += list(itertools.pairwise(events))
    assert sorted(pairs) == sorted(expected)
    assert sum(int((row.segments == 0).sum()) for row in packed) < 0.05 * len(packed) * SMALL.max_length


def test_the_order_differs_between_epochs_and_is_reproducible(data: Prepared, schema: Schema) -> None:
    first, again, second = (rows(data, schema, SMALL, epoch=epoch) for epoch in (1, 1, 2))

    assert all((one.items == other.items).all() for one, other in zip(first, again, strict=True))
    assert any((one.items != other.items).any() for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("network", SEQUENTIAL)
def test_a_hidden_state_depends_on_no_later_event_and_no_other_user(
    network: str, data: Prepared, schema: Schema
) -> None:
    model = built(network, schema, data).learner
    assert isinstance(model, NextItem)
    items = torch.randint(1, schema.num_items, (1, 12), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[1] * 5 + [2] * 7])
    before = model.encoder(model.items(items), segments)

    changed = items.clone()
    changed[0, 8:] = changed[0, 8:] % schema.num_items + 1
    changed[0, :5] = changed[0, :5] % schema.num_items + 1
    after = model.encoder(model.items(changed), segments)

    assert torch.allclose(before[0, 5:8], after[0, 5:8], atol=1e-6)
    assert not torch.allclose(before[0, 8:], after[0, 8:], atol=1e-3)


@pytest.mark.parametrize("network", SEQUENTIAL)
def test_the_state_at_the_last_event_is_the_same_in_training_and_in_prediction(
    network: str, data: Prepared, schema: Schema
) -> None:
    model = built(network, schema, data).learner
    assert isinstance(model, NextItem)
    items = torch.randint(1, schema.num_items, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 4, 1])
    segments = (torch.arange(9) < lengths[:, None]).long()

    whole = model.encoder(model.items(items), segments)
    last = model.encoder.last(model.items(items), lengths)

    assert torch.allclose(whole[torch.arange(3), lengths - 1], last, atol=1e-5)


@pytest.mark.parametrize("network", TRAINED)
def test_the_first_losses_equal_the_golden_ones(network: Any) -> None:
    schema = plain_schema(num_items=50)
    torch.manual_seed(0)
    model = build(dataclasses.replace(SMALL, network=network, blend=False), schema).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(20):
        loss = model(synthetic_rows(seed=step, num_items=50))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    expected = np.loadtxt(GOLDEN / f"{network}.txt")
    assert np.allclose(losses, expected, rtol=2e-3), f"losses are now {[round(loss, 4) for loss in losses]}"


@pytest.mark.parametrize("network", [*TRAINED, "transitions"])
def test_a_network_learns_the_transitions_of_the_synthetic_shop(
    network: Any, shop: Shop, data: Prepared, schema: Schema, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, network=network, epochs=6)
    popularity = dataclasses.replace(SMALL, network="popularity")

    result = run_training(
        FAMILY, config=config, data=data, directory=tmp_path / "a", worker=WorkerContext(), report=lambda _: None
    )
    floor = run_training(
        FAMILY, config=popularity, data=data, directory=tmp_path / "b", worker=WorkerContext(), report=lambda _: None
    )

    assert result.metrics["val_ndcg_at_10"] > 2 * floor.metrics["val_ndcg_at_10"]
    model = bundle.load(result.best, FAMILY).network
    known = [item for item in shop.followers if item in schema.index][:40]
    answers = model.predict(histories([Example(history=[schema.index[item]], count=5) for item in known]))
    right = [
        bool({schema.items[place - 1] for place in answer.items} & set(shop.followers[item][:1]))
        for item, answer in zip(known, answers, strict=True)
    ]
    assert np.mean(right) > 0.7


def test_the_fused_cross_entropy_has_the_loss_and_gradients_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2500, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (2500,), generator=generator)

    expected = F.cross_entropy(hidden @ weight.T, targets)
    expected_gradients = torch.autograd.grad(expected * 3, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(loss * 3, (hidden, weight))

    assert torch.isclose(loss.double(), expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_dropout_zeroes_the_given_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25).train()
    out = torch.stack([dropout(torch.ones(1000)) for _ in range(40)])

    assert abs(float((out == 0).double().mean()) - 0.25) < 0.02
    assert abs(float(out.double().mean()) - 1) < 0.03
    assert not torch.equal(out[0], out[1])
    assert torch.equal(dropout.eval()(torch.ones(10)), torch.ones(10))


def test_the_rank_is_that_of_a_stable_sort_with_and_without_excluded_items() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (64, 30), generator=generator).float()
    target = torch.randint(1, 30, (64,), generator=generator)
    excluded = torch.stack([torch.randperm(29, generator=generator)[:5] + 1 for _ in range(64)])

    rank = rank_of(target, scores)
    filtered = rank_without(excluded, target, scores, rank)

    for row in range(64):
        order = np.argsort(-scores[row].numpy(), kind="stable")
        kept = order[~np.isin(order, excluded[row].numpy())]
        assert int(rank[row]) == int(np.flatnonzero(order == int(target[row]))[0]) + 1
        place = np.flatnonzero(kept == int(target[row]))
        assert float(filtered[row]) == (place[0] + 1 if len(place) else np.inf)


def test_the_gains_of_all_blends_equal_those_of_each_blend(data: Prepared, schema: Schema) -> None:
    model = built("two_tower", schema, data)
    held_out = dataset(data, "val", range(schema.num_shards), schema=schema, config=SMALL, epoch=0)
    batch = collate([held_out[place] for place in range(200)])
    assert isinstance(batch, Histories)
    network, prior = model._both_scores(batch)
    assert network is not None and prior is not None
    tail = tail_of(schema).float()

    together = gains_of_blends(batch, network, prior, Blends(BLEND_WEIGHTS, TAIL_BOOSTS, tail))

    is_tail = tail[batch.targets] > 0
    for weight, boost in itertools.product(BLEND_WEIGHTS, TAIL_BOOSTS):
        alone = gains(batch, _blend(network, prior, weight) + boost * tail)
        found = together[:, BLEND_WEIGHTS.index(weight), TAIL_BOOSTS.index(boost)]
        assert found.tolist() == pytest.approx([float(alone.sum()), float(alone[is_tail].sum())], abs=1e-4)
    assert len(set(together[0, :, 0].tolist())) > 3 and is_tail.any()
    assert (together[1, :, -1] > together[1, :, 0]).any(), "a boost must help the tail"


def test_gini_is_zero_for_equal_counts_and_near_one_for_a_single_winner() -> None:
    assert abs(gini(torch.full((100,), 3.0))) < 1e-9
    assert gini(torch.tensor([0.0] * 99 + [1.0])) > 0.98


def test_transitions_sum_decayed_weights_whether_dense_or_sparse(data: Prepared, schema: Schema) -> None:
    prior = built("transitions", schema, data).prior
    assert isinstance(prior, Transitions)
    history = [*range(1, 50), 7, 7]
    batch = histories([Example(history=history), Example(history=[]), Example(history=[3])])
    items, factors = prior._last_events(batch)

    dense, sparse = prior(batch), prior._sum_of_rows(items, factors)
    weights = prior._dense_weights()
    expected = sum(
        float(prior.decay) ** distance * weights[item] for distance, item in enumerate(reversed(history[-LAST_EVENTS:]))
    )

    assert torch.allclose(sparse[0], torch.as_tensor(expected), atol=1e-4)
    assert torch.allclose(dense.sum(1), torch.tensor([1.0, 1e-3, 1.0]), atol=1e-3)
    assert dense[1].argmax() == prior.popularity.argmax()


def test_a_prediction_respects_the_allowed_and_excluded_items(data: Prepared, schema: Schema) -> None:
    model = built("transformer", schema, data)
    allowed = list(range(1, 30))
    ask = Example(history=[1, 2, 3], count=10, excluded=[1, 2, 3, 4], allowed=allowed)
    everything = Example(history=[5], count=1000)

    strict, whole = model.predict(histories([ask, everything]))

    assert len(strict.items) == 10
    assert set(strict.items) <= set(allowed) - {1, 2, 3, 4}
    assert strict.scores == sorted(strict.scores, reverse=True)
    assert sorted(whole.items) == list(range(1, schema.num_items + 1))
    assert set(strict.explanations) <= {0, 1, 2, 3}


def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(data: Prepared, schema: Schema) -> None:
    model = built("gru", schema, data)
    alone = model.predict(histories([Example(history=[1, 2, 3])]))[0]
    among = model.predict(histories([Example(history=list(range(1, 60))), Example(history=[1, 2, 3]), Example([])]))[1]

    assert alone.items == among.items
    assert np.allclose(alone.scores, among.scores, atol=1e-4)


def test_a_target_that_the_model_does_not_know_is_a_miss_and_not_an_error(data: Prepared, schema: Schema) -> None:
    fewer = schema.items[::2]
    older = schema.model_copy(
        update={"items": fewer, "item_counts": schema.item_counts[::2], "item_first_seen": schema.item_first_seen[::2]}
    )
    older = Schema.model_validate({**older.model_dump(), "fingerprint": "0" * 64})
    shards = range(schema.num_shards)
    held_out = dataset(data, "test", shards, schema=older, config=SMALL, epoch=0)
    examples: list[Any] = [held_out[place] for place in range(len(held_out))]
    model = build(dataclasses.replace(SMALL, network="popularity"), older)

    ratios = model.evaluate(histories(examples)).ratios

    unknown = [example.target == 0 for example in examples]
    assert 0.2 < np.mean(unknown) < 0.8
    hits = ratios[f"hit_rate_at_{CUTOFFS[-1]}_unfiltered"].numerator
    assert not hits[torch.tensor(unknown)].any()
    assert len(hits) == len(examples)


def test_the_logq_correction_applies_to_every_logit_except_the_targets_own() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    targets, bias = torch.randint(20, (40,), generator=generator), torch.rand(20, generator=generator).double()

    corrected = hidden @ weight.T + bias * (1 - F.one_hot(targets, 20))
    expected = F.cross_entropy(corrected, targets)
    loss = linear_cross_entropy(hidden, weight, targets, bias)

    assert torch.isclose(loss.double(), expected, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)
