"""Large catalogues: the sampled loss approximates the full one, and splitting or pruning keeps results correct."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from jobs.cli.context import Store
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models.nn.layers import chunk_tokens, linear_cross_entropy
from models.prepared import Prepared
from models.recommender import FAMILY
from models.recommender import data as module_of_data
from models.recommender.config import Config
from models.recommender.data import Histories, collate, dataset
from models.recommender.held_out import Example
from models.recommender.networks import ranking, transitions
from models.recommender.networks.build import build, initialise
from models.recommender.networks.negatives import SharedNegatives
from models.recommender.networks.next_item import NextItem
from models.recommender.networks.transitions import Shape
from models.recommender.sample import write_sample
from models.recommender.schema import Schema
from tests.kit.logs import prepared

SMALL = Config(dim=16, max_length=20, batch_size=16, epochs=3, precision="fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    shop = write_sample(tmp_path_factory.mktemp("shop"), num_users=400, num_items=120, num_events=12_000, seed=3)
    store = Store(tmp_path_factory.mktemp("store"))
    return prepared(store, shop.events, items=str(shop.items), split="leave-one-out")


@pytest.fixture(scope="module")
def schema(data: Prepared) -> Schema:
    return data.schema(Schema)


def test_shared_negatives_give_an_unbiased_estimate_of_the_softmax_sum() -> None:
    torch.manual_seed(0)
    counts = torch.arange(300).flip(0)
    popularity = (counts + 0.5) / (counts + 0.5).sum()
    logits = torch.randn(300)
    negatives = SharedNegatives(counts.tolist(), 60)
    sums = []
    for _ in range(1000):
        targets = torch.multinomial(popularity, 64, replacement=True)
        candidates, place, correction = negatives.draw(targets)
        assert torch.equal(candidates[place], targets)
        assert len(set(candidates.tolist())) == len(candidates) < 124
        sums.append(float((logits[candidates] + correction).exp().sum()))

    assert abs(np.mean(sums) / float(logits.exp().sum()) - 1) < 0.02


def test_the_sampled_loss_learns_nearly_as_well_as_the_full_one(data: Prepared, schema: Schema, tmp_path: Path) -> None:
    scores = []
    for loss in ("full", "sampled"):
        config = dataclasses.replace(SMALL, epochs=4, loss=loss, num_negatives=64, blend=False, spectral_start=False)
        result = run_training(
            FAMILY, config=config, data=data, directory=tmp_path / loss, worker=WorkerContext(), report=lambda _: None
        )
        scores.append(result.metrics["val_ndcg_at_10"])

    assert scores[1] > 0.8 * scores[0]


@pytest.mark.parametrize(
    ("num_items", "num_features", "loss", "sampled", "rowwise"),
    [
        (20_000, 0, "auto", False, False),
        (20_001, 0, "auto", True, False),
        (200_001, 0, "auto", True, True),
        (200_001, 5, "auto", True, False),
        (20_000, 0, "sampled", True, False),
        (200_001, 0, "full", False, False),
    ],
)
def test_the_loss_and_the_updates_depend_on_the_size_of_the_catalogue(
    schema: Schema, num_items: int, num_features: int, loss: Any, sampled: bool, rowwise: bool
) -> None:
    counts = {"items": [str(item) for item in range(num_items)], "item_counts": [1] * num_items}
    large = {**counts, "num_features": num_features}

    learner = build(Config(dim=2, loss=loss), schema.model_copy(update=large)).learner

    assert isinstance(learner, NextItem)
    assert (learner.negatives is not None, learner.items.sparse) == (sampled, rowwise)


def test_chunks_get_smaller_as_the_catalogue_grows_but_not_on_a_gpu() -> None:
    sizes = [chunk_tokens(num_items, "cpu") for num_items in (1, 3416, 9_000, 20_000, 50_000, 1_000_000)]

    assert sizes == [256, 256, 256, 128, 128, 128]
    assert [chunk_tokens(size, "cuda") for size in (3_000, 50_000, 1_000_000)] == [16_384, 4096, 1024]


def test_many_small_chunks_give_the_loss_and_gradients_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20_000, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(20_000, (300,), generator=generator)

    expected = F.cross_entropy(hidden @ weight.T, targets)
    loss = linear_cross_entropy(hidden, weight, targets)

    assert torch.isclose(loss.double(), expected, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_batches_that_are_split_give_the_same_metrics_and_predictions(
    data: Prepared, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build(SMALL, schema).eval()
    initialise(model, data, schema)
    held_out = dataset(data, "val", range(8), schema=schema, config=SMALL, epoch=0)
    examples = [example for place in range(40) if isinstance(example := held_out[place], Example)]
    batch = collate(examples)
    assert isinstance(batch, Histories)
    found = []
    for scores in (ranking.MAX_SCORES, 7 * schema.num_items + 7):
        monkeypatch.setattr(ranking, "MAX_SCORES", scores)
        with torch.inference_mode():
            found.append((model.evaluate(batch), model.predict(batch)))

    (whole, answers), (parts, part_answers) = found
    for name, ratio in whole.ratios.items():
        assert torch.allclose(ratio.numerator, parts.ratios[name].numerator)
        assert torch.equal(ratio.denominator, parts.ratios[name].denominator)
    assert torch.equal(whole.accumulators["recommended"], parts.accumulators["recommended"])
    assert [answer.items for answer in answers] == [answer.items for answer in part_answers]


def test_a_large_catalogue_keeps_fewer_followers_per_item_but_the_strongest(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    counts = sp.csr_array(draw.random((40, 40)).astype(np.float32))
    monkeypatch.setattr(transitions, "MAX_PAIRS", 400)

    kept = transitions.weight_counts(counts, Shape(row_power=0.0))

    assert 300 < kept.nnz <= 400
    assert all(kept[[row]].data.min() >= np.sort(counts[[row]].data)[-kept[[row]].nnz] for row in range(40))


def test_a_large_log_is_validated_on_some_users_and_tested_on_all(
    data: Prepared, schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_examples(split: str) -> list[int]:
        return [len(dataset(data, split, [s], schema=schema, config=SMALL, epoch=0)) for s in range(32)]

    validated, tested = num_examples("val"), num_examples("test")
    monkeypatch.setattr(module_of_data, "MAX_VALIDATION_SCORES", sum(validated) * schema.num_items // 3 + 1)

    assert num_examples("val") == [-(-size // 3) for size in validated]
    assert num_examples("test") == tested


def test_rounding_does_not_change_the_probability_of_rare_items_in_a_huge_catalogue() -> None:
    negatives = SharedNegatives([3_000_000, *[0] * 999_999], 8)

    share = negatives.cumulative.double().diff()

    assert torch.allclose(share, negatives.proposal[1:].double(), rtol=1e-3, atol=0)
