"""The autoencoder: what it learns without labels, what it finds strange, and how it is judged and asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import bundle, golden
from models.ask import Answerer
from models.image import FAMILY
from models.image.config import Config
from models.image.data import Batch
from models.image.endpoints import ENDPOINTS, golden_request
from models.image.networks.anomaly import Ranks, Spread, edges, residual
from models.image.networks.autoencoder import Autoencoder
from models.image.networks.build import build
from models.image.report.summary import summarise
from tests.models.image.test_networks import (
    HEADS,
    SIZE,
    assert_golden_losses,
    patterned,
    schema_of,
    train,
    write_prepared,
)

SETTINGS: dict[str, Any] = {"network": "autoencoder", "latent": 16, "learning_rate": 6e-3, "width": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of stripes and checks in three colours."""
    directory = tmp_path_factory.mktemp("autoencoder")
    data, _ = write_prepared(directory / "data")
    result = train(data, directory / "run", epochs=12, **SETTINGS)
    return data, result, bundle.load(result.best, FAMILY)


def built(**changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    config = Config(precision="fp32", **{**SETTINGS, **changes})
    network = build(config, schema_of(patterned(256, seed=1)))
    assert isinstance(network, Autoencoder)
    return network


def noise(num_pictures: int) -> Batch:
    """Pictures of nothing, as bright as those of something."""
    like = patterned(num_pictures, seed=90)
    shuffled = like.pixels.flatten(2)[:, :, torch.randperm(SIZE**2, generator=torch.Generator().manual_seed(0))]
    return Batch(shuffled.reshape(like.pixels.shape), like.labels)


def test_labels_never_reach_the_encoder() -> None:
    gradients = []
    for seed in (1, 2):
        network, batch = built().train(), patterned(32, seed=3)
        labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, tuple(batch.labels.shape)))
        torch.manual_seed(0)
        network(Batch(batch.pixels, labels)).backward()
        gradients.append([_gradient(network.encoder.dense.weight), _gradient(network.reader.classifier.weight)])

    assert torch.equal(gradients[0][0], gradients[1][0]) and bool(gradients[0][0].any())
    assert not torch.equal(gradients[0][1], gradients[1][1])


def _gradient(weights: Tensor) -> Tensor:
    assert weights.grad is not None
    return weights.grad


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 31), (3, 64), (3, 112)])
def test_pictures_of_any_side_come_back_in_their_size(channels: int, size: int) -> None:
    schema = schema_of(patterned(8, seed=0), channels=channels, size=size, mean=[0.5] * channels, std=[0.2] * channels)
    network = build(Config(network="autoencoder", latent=8, width=0.25), schema).eval()
    assert isinstance(network, Autoencoder)
    pictures = torch.rand(2, channels, size, size)

    assert network.decoder(network.encoder(pictures)).shape == pictures.shape


def test_it_learns_to_put_pictures_together_and_keeps_what_they_show(trained: Any) -> None:
    _, result, _ = trained

    assert result.metrics["val_reconstruction_error"] < 0.5
    assert result.metrics["val_accuracy"] > 0.8
    assert result.metrics["val_accuracy_colour"] > 0.8


def test_what_is_no_picture_of_the_catalogue_is_strange_and_what_is_one_is_not(trained: Any) -> None:
    network = trained[2].network
    with torch.inference_mode():
        known = [one.strangeness for one in network.predict(patterned(200, seed=70))]
        unknown = [one.strangeness for one in network.predict(noise(50))]

    assert min(one.score for one in unknown) > float(np.quantile([one.score for one in known], 0.99))
    assert min(one.rank for one in unknown) > 0.99
    assert float(np.mean([one.rank > 0.9 for one in known])) == pytest.approx(0.1, abs=0.08)
    assert float(np.median([one.score for one in known])) == pytest.approx(1, abs=0.4)


def test_the_share_of_strange_pictures_is_one_in_a_hundred_on_the_pictures_it_was_set_on(trained: Any) -> None:
    _, result, _ = trained

    for name in ("val_strange_share", "val_strange_share_pca"):
        assert result.metrics[name] == pytest.approx(0.01, abs=0.0101)


def test_nothing_of_the_score_depends_on_the_other_pictures_of_the_request(trained: Any) -> None:
    network, batch = trained[2].network, patterned(9, seed=6)
    with torch.inference_mode():
        together = network.predict(batch)[4]
        alone = network.predict(Batch(batch.pixels[4:5], batch.labels[4:5]))[0]

    expected, found = (dataclasses.asdict(one.strangeness) for one in (together, alone))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert np.allclose(together.embedding, alone.embedding, atol=1e-4)


def test_look_alikes_lie_near_each_other_without_labels(trained: Any) -> None:
    network, batch = trained[2].network, patterned(200, seed=8, missing=0)
    with torch.inference_mode():
        embeddings = network.embed(batch)
    similarity = embeddings @ embeddings.T - 2 * torch.eye(len(embeddings))

    nearest = similarity.argmax(1)

    same = (batch.labels == batch.labels[nearest]).all(1).double().mean()
    assert float(same) > 0.6  # one in nine by chance


def test_recognise_says_how_strange_a_picture_is_and_other_networks_say_nothing(trained: Any, tmp_path: Path) -> None:
    data, _, loaded = trained
    request = golden_request(loaded.schema)
    other = bundle.load(train(data, tmp_path / "prior", network="prior").best, FAMILY)

    answer, silent = (Answerer(FAMILY, ENDPOINTS[0], one.network, one.schema, "1")(request) for one in (loaded, other))

    parts = ("reconstruction", "latent", "outline")
    anomaly: Any = answer.model_dump()["anomaly"]
    assert anomaly["unlike"] == (anomaly["rank"] > 0.99)
    assert anomaly["score"] == pytest.approx(np.mean([anomaly[part] for part in parts]), rel=1e-4)
    assert {"pca_score", "pca_rank"} < set(anomaly)
    assert [one["name"] for one in answer.model_dump()["attributes"]] == list(HEADS)
    assert silent.model_dump()["anomaly"] is None


def test_a_stored_model_gives_its_golden_answer_and_its_tallies_are_summarised(trained: Any) -> None:
    loaded = trained[2]

    golden.check(FAMILY, loaded.network, loaded.schema, loaded.golden)
    with torch.inference_mode():
        found = loaded.network.evaluate(patterned(50, seed=9))

    assert set(summarise(found.accumulators, loaded.schema)) == {
        f"{name}_{head}" for name in ("macro_f1", "calibration_error") for head in HEADS
    }
    assert {len(ratio.numerator) for ratio in found.ratios.values()} == {50}


def test_the_first_losses_are_what_they_were() -> None:
    assert_golden_losses("autoencoder", built())


def test_a_running_spread_ends_where_the_vectors_are_now() -> None:
    torch.manual_seed(0)
    mixing = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 3.0]])
    spread = Spread(3, whitening=1.0)
    for step in range(300):
        spread.update(torch.randn(200, 3) @ mixing.T + (8.0 if step < 10 else 5.0))
    spread.settle()

    distances = spread.distance(torch.randn(2000, 3) @ mixing.T + 5)

    assert torch.allclose(spread.covariance.float(), mixing @ mixing.T, rtol=0.15, atol=0.15)
    assert float(distances.mean()) == pytest.approx(1, abs=0.1)
    assert float(spread.distance(torch.full((1, 3), 50.0))) > 50


def test_a_rank_is_the_share_of_lower_scores() -> None:
    ranks, scores = Ranks(), torch.linspace(0.5, 2, 1000)
    ranks.set(ranks.counts(scores[:500]).double() + ranks.counts(scores[500:]).double())

    found = ranks(torch.tensor([0.0, 0.5, 1.25, 1.9, 1e9, float("inf")]))

    assert found.tolist() == pytest.approx([0, 0, 0.5, 0.933, 1, 1], abs=0.02)


def test_edges_see_direction_and_place_but_not_brightness() -> None:
    upright = torch.zeros(1, 1, 28, 28)
    upright[..., 14:] = 1
    bright, moved, lying = upright + 3, upright.roll(-8, 3), upright.mT

    reference = edges(upright)

    assert torch.allclose(reference, edges(bright), atol=1e-4)
    for other in (moved, lying):
        assert float((reference - edges(other)).square().mean()) > 0.01


def test_the_plain_score_is_the_error_of_a_reconstruction_from_components() -> None:
    network = built()
    pictures = network.normalise(patterned(300, seed=12).pixels)
    pixels = network.principal.pixels(pictures)
    network.principal.fit(pixels)

    found = residual(network.principal, pictures)

    centred = (pixels - pixels.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    rest = centred - centred @ directions[:32].T @ directions[:32]
    assert torch.allclose(found.double(), rest.square().mean(1), rtol=1e-2, atol=1e-4)
