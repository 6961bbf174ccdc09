"""The order-agnostic networks: their bags of items, and which loss term trains which part."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from models.recommender.config import Config
from models.recommender.data import Histories, Rows, collate
from models.recommender.held_out import Example
from models.recommender.networks.autoencoder import Autoencoder
from models.recommender.networks.bags import Bags, bags_of_histories, bags_of_rows
from models.recommender.networks.build import build
from models.recommender.networks.gan import Gan
from models.recommender.networks.recommender import Recommender
from tests.models.recommender.test_networks import plain_schema, synthetic_rows

ORDER_AGNOSTIC = ("autoencoder", "gan")
NUM_ITEMS = 30


def built(network: Any) -> Recommender:
    torch.manual_seed(0)
    # Dropout cuts its masks from a pool, so two calls differ in spite of equal seeds.
    config = Config(network=network, dim=8, max_length=20, dropout=0.0, blend=False, precision="fp32")
    return build(config, plain_schema(num_items=NUM_ITEMS))


def test_a_bag_has_the_distinct_items_of_one_user_in_a_row_and_the_last_target() -> None:
    rows = Rows(
        items=torch.tensor([[3, 5, 3, 9, 0], [3, 4, 0, 0, 0]]),
        targets=torch.tensor([[5, 3, 7, 2, 0], [4, 6, 0, 0, 0]]),
        segments=torch.tensor([[1, 1, 1, 2, 0], [1, 1, 0, 0, 0]]),
    )

    bags = bags_of_rows(rows, 10)

    assert bags.items.tolist() == [3, 5, 7, 2, 9, 3, 4, 6]
    assert bags.sizes.tolist() == [3, 2, 3]
    assert bags.owner.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_the_embedding_of_a_bag_is_the_sum_of_its_items_over_the_root_of_their_number() -> None:
    table = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    batch = collate([Example(history=[2, 7, 2]), Example(history=[]), Example(history=[5])])
    assert isinstance(batch, Histories)

    embedded = bags_of_histories(batch, 10).embed(table)

    assert torch.allclose(embedded, torch.stack([(table[2] + table[7]) / 2**0.5, torch.zeros(4), table[5]]))


def test_masking_keeps_a_share_of_each_bag_that_varies_from_0_to_1() -> None:
    torch.manual_seed(0)
    sizes = torch.full((400,), 50)
    bags = Bags(torch.arange(50).repeat(400) + 1, torch.arange(400).repeat_interleave(50), sizes)

    kept = bags.mask()

    shares = kept.sizes / 50
    assert 0.45 < float(shares.mean()) < 0.55
    assert float(shares.min()) < 0.05 and float(shares.max()) > 0.95
    assert torch.equal(kept.owner.bincount(minlength=400), kept.sizes)


@pytest.mark.parametrize("network", ORDER_AGNOSTIC)
def test_scores_ignore_the_order_and_the_repeats_of_a_history(network: str) -> None:
    model = built(network).eval()
    batch = collate([Example(history=[4, 9, 1, 22]), Example(history=[22, 1, 22, 9, 4])])
    assert isinstance(batch, Histories)

    scores = model.scores(batch)

    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    assert torch.allclose(scores.exp().sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("network", ORDER_AGNOSTIC)
def test_every_weight_gets_a_gradient_in_every_step(network: str) -> None:
    model = built(network).train()

    torch.autograd.backward(model(synthetic_rows(seed=0, num_items=NUM_ITEMS)))

    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_generator_and_discriminator_learn_from_their_own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("gan").train()
    learner = model.learner
    assert isinstance(learner, Gan)
    rows = synthetic_rows(seed=0, num_items=NUM_ITEMS)
    generator: list[Any] = []
    discriminator: list[Any] = []
    for weight in (0.0, 100.0):
        monkeypatch.setattr("models.recommender.networks.gan.ADVERSARIAL_WEIGHT", weight)
        model.zero_grad()
        torch.manual_seed(1)
        torch.autograd.backward(learner.loss(rows))
        generator.append(learner.generator.items.weight.grad)
        discriminator.append(learner.discriminator.scorer.items.weight.grad)

    assert torch.equal(discriminator[0], discriminator[1])
    assert not torch.allclose(generator[0], generator[1])


def test_the_kl_weight_is_annealed_in_training_only_and_is_saved() -> None:
    model = built("autoencoder")
    learner = model.learner
    assert isinstance(learner, Autoencoder)
    rows = synthetic_rows(seed=0, num_items=NUM_ITEMS)

    model.eval()
    learner.loss(rows)
    assert int(learner.steps) == 0
    model.train()
    learner.loss(rows)

    assert int(learner.steps) == 1
    assert int(model.state_dict()["learner.steps"]) == 1


def test_chunks_of_bags_do_not_change_the_autoencoders_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("autoencoder").train()
    rows = synthetic_rows(seed=0, num_items=NUM_ITEMS)
    torch.manual_seed(1)
    whole = model(rows)
    other = built("autoencoder").train()
    monkeypatch.setattr("models.recommender.networks.autoencoder.CHUNK_BAGS", 3)

    torch.manual_seed(1)
    in_chunks = other(rows)

    assert torch.isclose(whole, in_chunks, rtol=1e-5)


def test_order_agnostic_networks_accept_histories_longer_than_a_row() -> None:
    model = built("gan").eval()
    config = dataclasses.replace(Config(), max_length=20)
    batch = collate([Example(history=list(range(1, NUM_ITEMS + 1)) * 3)])
    assert isinstance(batch, Histories)

    assert len(batch.examples[0].history) > config.max_length
    assert model.predict(batch)[0].items


def test_weights_of_the_gan_with_the_tensor_names_of_release_0_1_are_loaded() -> None:
    trained, loaded = built("gan"), built("gan")
    torch.nn.init.ones_(trained.get_parameter("learner.discriminator.condition.weight"))
    stored = {
        name.replace("discriminator.condition.", "discriminator.told.").replace(
            "discriminator.scorer.", "discriminator.pairs."
        ): tensor
        for name, tensor in trained.state_dict().items()
    }
    assert not stored.keys() <= trained.state_dict().keys()

    loaded.load_state_dict(stored)

    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in loaded.state_dict().items())
