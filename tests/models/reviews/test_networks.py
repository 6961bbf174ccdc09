"""The reviews family's networks: what they learn, how they are calibrated, and what they answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.evaluation.baselines import fitted
from models.ask import Answerer
from models.evaluate import Model
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.config import Config
from models.reviews.data import Review, Reviews, collate
from models.reviews.endpoints import AnalysisRequest, AnalysisResponse, ReputationRequest, ReputationResponse
from models.reviews.grams import present
from models.reviews.networks.build import build
from models.reviews.networks.sentiment import NUM_BINS, SHARES, TEMPERATURES
from models.reviews.networks.wide import NaiveBayes
from models.reviews.products import reputation_rows
from models.reviews.sample import made_up, sample
from models.reviews.schema import Schema
from models.reviews.text import codes_of, normalise
from tests.conftest import CHECKOUT
from tests.models.reviews.kit import prepared, scores_of, trained

GOLDEN = CHECKOUT / "tests" / "golden" / "losses"
SCHEMA = Schema(
    family="reviews",
    fingerprint="0" * 64,
    num_shards=1,
    num_examples={},
    classes=["negative", "positive"],
    class_counts=[50, 50],
    max_chars=1000,
    fractions=[0.1, 0.2],
)
SMALL = Config(dim=16, num_buckets=1 << 12, dropout=0.0, pretrain_epochs=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("shop")
    return prepared(directory / "data", **sample(directory / "raw").prepare)


@pytest.fixture(scope="module")
def model(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Model:
    settings: dict[str, Any] = {"epochs": 4, "dim": 32, "num_buckets": 1 << 15, "learning_rate": 4e-3}
    return trained(data, tmp_path_factory.mktemp("run"), **settings)


def drawn(count: int, *, seed: int) -> Reviews:
    """Made-up texts with their true class."""
    draw = np.random.default_rng(seed)
    labels = draw.random(count) < 0.5
    texts = [normalise(made_up(bool(label), "quality", draw)).codes for label in labels]
    return collate([Review(codes, label=int(label)) for codes, label in zip(texts, labels, strict=True)])


def ask(model: Model, **fields: Any) -> AnalysisResponse:
    answerer = Answerer(FAMILY, FAMILY.endpoints[0], model.network, model.schema, "1")
    response = answerer(AnalysisRequest(**fields))
    assert isinstance(response, AnalysisResponse)
    return response


@pytest.mark.parametrize("name", ["wide", "cnn", "rnn", "attention"])
def test_the_first_losses_equal_the_golden_ones(name: Any) -> None:
    torch.manual_seed(0)
    settings = {"network": "wide"} if name == "wide" else {"network": "deep", "encoder": name}
    network = build(replace(SMALL, **settings), SCHEMA).train()
    if isinstance(network.wide, NaiveBayes):
        torch.nn.init.normal_(network.wide.ratio, std=0.3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    losses = []
    for step in range(20):
        loss = network.loss(drawn(32, seed=step))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))

    expected = np.loadtxt(GOLDEN / f"reviews_{name}.txt")
    assert np.allclose(losses, expected, rtol=5e-3), f"losses are now {[round(loss, 4) for loss in losses]}"


def test_a_trained_network_learns_what_naive_bayes_does_not(model: Model, data: Prepared) -> None:
    network = scores_of(model, data)
    bayes = scores_of(fitted(FAMILY, replace(FAMILY.baselines["naive Bayes"], num_buckets=1 << 15), data), data)

    # 3 % of the ratings are wrong: no model can reach more than 0.97.
    assert network.ratio("accuracy") > 0.95 > bayes.ratio("accuracy")


def test_a_deep_network_alone_learns_negations(data: Prepared, tmp_path: Path) -> None:
    deep = trained(data, tmp_path / "run", network="deep", epochs=6, batch_size=32, dim=32, learning_rate=4e-3)

    assert scores_of(deep, data).ratio("accuracy") > 0.93


def test_training_texts_get_the_logits_of_the_fit_without_them(model: Model) -> None:
    batch = drawn(30, seed=1)
    of_folds = [model.network.wide(replace(batch, folds=torch.full((30,), fold))) for fold in range(3)]

    assert not torch.allclose(of_folds[0], of_folds[1])
    assert torch.allclose(model.network.wide(batch), torch.stack(of_folds).mean(0), atol=1e-4)


def test_what_n_grams_add_sums_to_the_logit(model: Model) -> None:
    batch = drawn(5, seed=2)
    sums = torch.zeros(5, 2).index_add_(0, batch.owners, model.network.wide.contributions(batch))

    difference = model.network.wide(batch) - sums
    assert torch.allclose(difference, difference[:1].expand(5, -1), atol=1e-3)  # the bias


def test_calibration_chooses_share_temperature_and_the_band_of_unsure_answers() -> None:
    network = build(replace(SMALL, network="wide-deep"), SCHEMA)
    sums = torch.zeros(len(SHARES), len(TEMPERATURES) + 2 * NUM_BINS, dtype=torch.float64)
    sums[:, : len(TEMPERATURES)] = 9.0
    sums[3, 7] = 1.0
    counts, rights = sums[3, len(TEMPERATURES) :].view(2, NUM_BINS)
    counts[10], rights[10] = 100, 60
    counts[100], rights[100] = 1000, 995

    network.calibrate(sums)

    assert float(network.share) == SHARES[3]
    assert float(network.temperature) == pytest.approx(TEMPERATURES[7])
    assert 10 < float(network.threshold) * NUM_BINS / 20 <= 100


def test_answers_have_evidence_that_stands_in_the_text(model: Model) -> None:
    text = "用了几天,第12单质量让人喜欢,就这样 <b>ＯＫ</b>"

    (found,) = ask(model, text=text).reviews

    assert found.sentiment == "positive" and found.language == "zh" and found.rating is not None and found.rating > 3
    assert found.evidence and all(text[each.start : each.end] == each.text for each in found.evidence)
    assert "喜欢" in "".join(each.text for each in found.evidence)
    assert [(each.aspect, each.polarity > 0) for each in found.aspects] == [("quality", True)]
    assert not ask(model, text=text, evidence=False).reviews[0].evidence


def test_texts_of_every_kind_are_answered(model: Model) -> None:
    texts = ["😀", "מוצר טוב", "<script>", "好" * 6000, "e\u0301" * 5]

    found = ask(model, texts=texts).reviews

    assert [each.truncated for each in found] == [len(text) > 5000 for text in texts]
    assert all(0.5 <= each.confidence <= 1 for each in found)
    assert sum(each.probability for each in found[0].probabilities) == pytest.approx(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text"),
        ({"text": "a", "texts": ["a"]}, "text"),
        ({"texts": []}, "text"),
        ({"texts": ["a"] * 65}, "64"),
        ({"text": "a\x00"}, "NUL"),
        ({"x": 1}, "x"),
    ],
)
def test_a_malformed_request_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnalysisRequest(**fields)


@pytest.mark.parametrize(("texts", "place"), [(["fine", " \u200b\n"], 1), ([""], 0)])
def test_a_text_of_which_nothing_is_left_is_refused(model: Model, texts: list[str], place: int) -> None:
    with pytest.raises(ValueError, match=f"text {place} is empty; send a review"):
        ask(model, texts=texts)


def test_the_reputation_of_a_product_is_served_as_stored(model: Model, data: Prepared) -> None:
    stored = dict(reputation_rows(data))
    answerer = Answerer(FAMILY, FAMILY.endpoints[1], model.network, model.schema, "1")

    found = answerer(ReputationRequest(product_id="p01"), {"reputation": {"p01": stored["p01"]}})
    unknown = answerer(ReputationRequest(product_id="nothing"), {"reputation": {}})

    assert isinstance(found, ReputationResponse) and isinstance(unknown, ReputationResponse)
    assert found.low is not None and found.high is not None and 0 < found.low < found.high < 1
    assert found.reviews > 50 and found.summary and found.source == "reviews"
    assert unknown.source == "unknown" and unknown.mean is None


def test_n_grams_are_those_of_each_text_alone() -> None:
    texts = [codes_of("质量好"), codes_of("a b a"), codes_of("")]

    together, starts = present(texts)

    for number, text in enumerate(texts):
        assert present([text])[0].tolist() == together[starts[number] : starts[number + 1]].tolist()
    assert starts.tolist()[1] == 6  # three characters, two pairs, one of three


def test_normalised_characters_know_their_place() -> None:
    text = "  Ａ\u0301 ﬁne\u200b 好\ufeff "

    found = normalise(text)

    assert found.text == "á fine 好"
    assert [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)][3:5] == ["ﬁ", "n"]
