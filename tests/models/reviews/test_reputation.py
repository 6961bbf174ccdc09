"""Reputation: the beta distribution, intervals that hold what they say, changes, and the table."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from models.reviews.reputation.prior import SHARES, Floats, fit_prior, fit_priors
from models.reviews.reputation.score import (
    chance_higher,
    changes,
    reputations,
    shares_of_ratings,
    weights_of,
)
from models.reviews.reputation.table import TableSettings, reputation_table

DAY = 86_400.0


@pytest.mark.parametrize(("strength", "num_reviews"), [(4.0, 3), (4.0, 20), (20.0, 20)])
def test_intervals_of_90_percent_hold_90_percent(strength: float, num_reviews: int) -> None:
    draw = np.random.default_rng(0)
    num_products, held = 150, []
    for _ in range(6):
        truth = draw.beta(0.75 * strength, 0.25 * strength, num_products)
        product = np.repeat(np.arange(num_products), num_reviews)
        positive = (draw.random(len(product)) < truth[product]).astype(float)
        found = reputations(product, positive, np.ones(len(product)), num_products=num_products)
        held.append(((found.low <= truth) & (truth <= found.high)).mean())
    assert 0.86 <= np.mean(held) <= 0.94


def test_unsure_probabilities_are_not_taken_for_shares() -> None:
    draw = np.random.default_rng(0)
    truth = draw.beta(3, 1, 200)
    product = np.repeat(np.arange(200), 40)
    labels = draw.random(8000) < truth[product]
    signal = 2 * np.where(labels, 1.0, -1.0) + np.sqrt(2) * draw.normal(size=8000)
    probabilities = 1 / (1 + np.exp(-2 * signal - np.log(labels.mean() / (1 - labels.mean()))))
    found = reputations(product, probabilities, np.ones(8000), num_products=200)
    assert 0.85 < ((found.low <= truth) & (truth <= found.high)).mean() < 0.95
    assert np.abs(found.mean - truth).mean() < 0.95 * np.abs(found.share - truth).mean()


def test_few_reviews_are_shrunk_to_their_category_and_rank_below_many() -> None:
    product = np.repeat([0, 1, *range(2, 26)], [2, 80, *[30] * 24])
    positive = np.where(product < 2, 1.0, (np.arange(len(product)) % 10 < 8).astype(float))
    found = reputations(product, positive, np.ones(len(product)), num_products=26)
    assert found.mean[0] < found.mean[1] and found.low[0] < found.low[1]
    assert found.rank[1] < found.rank[0]
    assert found.high[0] - found.low[0] > found.high[1] - found.low[1]
    assert sorted(found.rank.tolist()) == list(range(1, 27))


def test_old_reviews_count_less() -> None:
    ages = np.array([0.0, 0.0, 0.0, 720.0, 720.0, 720.0])
    weights = weights_of(ages)
    assert weights.tolist() == [1.0, 1.0, 1.0, 1 / 16, 1 / 16, 1 / 16]
    found = reputations(np.zeros(6, int), np.array([1.0, 1, 1, 0, 0, 0]), weights, num_products=1)
    assert found.share[0] == pytest.approx(16 / 17)
    assert 3 < found.effective[0] < 4
    with pytest.raises(ValueError, match="half-life of 0 days is not above 0"):
        weights_of(ages, 0.0)


def test_a_product_without_reviews_has_its_categorys_mean() -> None:
    product = np.repeat(np.arange(12), 30)
    positive = np.tile(np.repeat([1.0, 0.0], [21, 9]), 12)
    found = reputations(product, positive, np.ones(360), num_products=13)
    assert found.reviews[12] == 0 and np.isnan(found.share[12])
    assert found.mean[12] == pytest.approx(0.7, abs=0.03)


def likelihood_of(positive: list[float], total: float) -> Floats:
    counts = np.array(positive)[:, None]
    logs = counts * np.log(SHARES) + (total - counts) * np.log(1 - SHARES)
    return np.asarray(np.exp(logs - logs.max(1, keepdims=True)))


def test_small_categories_take_the_prior_of_all() -> None:
    likelihood = likelihood_of([18.0] * 25 + [4.0] * 5, 20)
    priors = fit_priors(likelihood, np.ones(30, bool), ["large"] * 25 + ["small"] * 5)
    assert priors["large"].of == "large" and priors["large"].mean == pytest.approx(0.9, abs=0.02)
    assert priors["small"].of == "all" and 0.7 < priors["small"].mean < 0.85


def test_priors_of_alike_products_are_stronger_than_those_of_different_ones() -> None:
    alike = fit_prior(likelihood_of([24.0] * 60, 30))
    different = fit_prior(likelihood_of([30.0, 6.0, 24.0] * 20, 30))
    assert alike.strength > 10 * different.strength
    assert alike.mass.sum() == pytest.approx(1)
    assert fit_prior(likelihood_of([], 0)).mean == pytest.approx(0.5)


def test_ratings_are_shares_and_others_are_refused() -> None:
    assert shares_of_ratings(np.array([1.0, 2, 3, 4, 5])).tolist() == [0, 0, 0.5, 1, 1]
    with pytest.raises(ValueError, match="the rating 10 is not between 1 and 5; rescale"):
        shares_of_ratings(np.array([3.0, 10.0]))
    with pytest.raises(ValueError, match="must be between 0 and 1; convert ratings"):
        reputations(np.zeros(1, int), np.array([4.0]), np.ones(1), num_products=1)


def test_the_chance_of_being_higher_is_that_of_draws() -> None:
    draw = np.random.default_rng(0)
    expected = (draw.beta(5, 3, 400_000) > draw.beta(4, 4, 400_000)).mean()
    found = chance_higher((np.array([5.0]), np.array([3.0])), (np.array([4.0]), np.array([4.0])))
    assert found[0] == pytest.approx(expected, abs=0.003)


def test_a_week_of_bad_reviews_is_a_change_and_a_single_one_hardly() -> None:
    ages = np.concatenate([np.linspace(8, 300, 60), np.full(12, 2.0), np.linspace(8, 300, 60), [2.0]])
    product = np.repeat([0, 1], [72, 61])
    positive = np.concatenate([np.tile([1.0, 1, 1, 1, 0], 12), np.zeros(12), np.tile([1.0, 1, 1, 1, 0], 12), [0.0]])
    found = reputations(product, positive, weights_of(ages), num_products=3)
    changed = changes(product, positive, ages, found)
    assert changed.recent.tolist() == [12, 1, 0]
    assert changed.chance_better[0] < 0.01 < 0.1 < changed.chance_better[1] < 0.5
    assert changed.chance_better[2] == 0.5 and changed.since[2] == changed.before[2]
    assert changed.since[0] < changed.since[1] < changed.before[1]


def table_of(**more: Sequence[object]) -> pa.Table:
    good, bad = "Great quality. The price is fair.", "Terrible service, and the delivery was late."
    columns = {"product": ["a"] * 6 + ["b"] * 6, "text": [good] * 6 + [bad] * 5 + [None]}
    return pa.table({**columns, **more})


def test_the_table_has_a_row_for_each_product_in_the_order_of_ranks() -> None:
    table = table_of(rating=[5] * 6 + [1] * 6, time_s=[day * DAY for day in range(12)], category=["x"] * 12)
    found = reputation_table(table, settings=TableSettings(change_days=1)).to_pylist()
    assert [row["product"] for row in found] == ["a", "b"]
    assert found[0]["quality_share"] == 1 and found[0]["quality_polarity"] > 0
    assert found[1]["service_polarity"] < 0 and found[1]["service_share"] == pytest.approx(5 / 6)
    assert found[1]["price_polarity"] is None and found[1]["recent_reviews"] == 1
    assert any("look here: 6 reviews say nearly the same" in flag for flag in found[0]["flags"])
    texts = table.column("text").to_pylist()
    for row in found:
        for aspect in json.loads(row["summary"]):
            for quote in aspect["praise"] + aspect["blame"]:
                assert texts[quote["review"]][quote["start"] : quote["end"]] == quote["text"]


def test_scores_of_a_model_stand_for_ratings() -> None:
    by_score = reputation_table(table_of(), np.array([0.98] * 6 + [0.03] * 6)).to_pylist()
    assert [row["product"] for row in by_score] == ["a", "b"] and by_score[0]["low"] > by_score[1]["high"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"product": ["a"], "body": ["x"]}), "no column 'text'; they have product, body"),
        (table_of(), "there are neither scores nor a column 'rating'"),
        (table_of(rating=[None] * 12), "row 0 of the reviews has no rating"),
        (table_of(rating=["five"] * 12), "column 'rating' of the reviews must have numbers"),
        (pa.table({"product": [None], "text": ["x"], "rating": [3]}), "row 0 of the reviews has no product"),
    ],
)
def test_tables_that_cannot_be_read_say_what_is_missing(table: pa.Table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reputation_table(table)


def test_as_many_scores_as_reviews_are_needed() -> None:
    with pytest.raises(ValueError, match="there are 2 scores for 12 reviews"):
        reputation_table(table_of(), np.ones(2))
