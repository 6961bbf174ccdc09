"""The reputation of products: decayed numbers of reviews, shrunk to their category, with intervals and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv

from models.reviews.reputation.prior import EDGES, SHARES, Floats, Ints, Prior, fit_priors

HALF_LIFE_DAYS = 180.0
LEVEL = 0.9
SECONDS_A_DAY = 86_400
WEEK_DAYS = 7.0
CHANGE_POINTS = 401


@dataclass(frozen=True)
class Reputations:
    """Reputations of products [P], in the order in which the products were given."""

    reviews: Ints
    """Reviews of each product."""
    effective: Floats
    """How many reviews of today say as much as its decayed ones: (sum of weights)^2 / sum of squared weights."""
    share: Floats
    """The decayed share of positive reviews, not shrunk; NaN without reviews."""
    mean: Floats
    """The expected share of positive reviews."""
    low: Floats
    high: Floats
    """The interval that holds the share of positive reviews with a probability of LEVEL."""
    rank: Ints
    """1 is the highest lower bound; equal ones are ordered by mean."""
    priors: tuple[Prior, ...]


@dataclass(frozen=True)
class Changes:
    """What changed in the last days for products [P]: positive shares since and before, and how sure that is."""

    recent: Ints
    """Reviews since."""
    before: Floats
    since: Floats
    """Expected shares of positive reviews, both shrunk to the product's own past or category."""
    chance_better: Floats
    """The posterior probability that the share is higher since than before; 0.5 where there is nothing new."""


def shares_of_ratings(ratings: Floats) -> Floats:
    """How positive ratings from 1 to 5 are: 0 for 1 and 2, 0.5 for 3, 1 for 4 and 5; raises ValueError."""
    wrong = ~((ratings >= 1) & (ratings <= 5))
    if wrong.any():
        raise ValueError(f"the rating {ratings[wrong][0]:g} is not between 1 and 5; rescale ratings to 1 to 5 stars")
    return np.clip((np.round(ratings) - 2) / 2, 0.0, 1.0)


def weights_of(ages_days: Floats, half_life_days: float = HALF_LIFE_DAYS) -> Floats:
    """The weights of reviews of these ages: halved every half-life; those of the future count as of today."""
    if not half_life_days > 0:
        raise ValueError(f"a half-life of {half_life_days:g} days is not above 0; 180 is usual, inf means no decay")
    return np.exp2(-np.maximum(ages_days, 0.0) / half_life_days)


def reputations(
    product: Ints,
    positive: Floats,
    weights: Floats,
    *,
    num_products: int,
    categories: Sequence[str] | None = None,
    priors: dict[str, Prior] | None = None,
    usual: float | None = None,
) -> Reputations:
    """Reputations from reviews [N]: index of the product, how positive from 0 to 1, weight.

    `positive` is a calibrated probability that a review is positive, or comes from its rating. A review with the
    probability p has the likelihood `1 + (share - usual) (p - usual) / (usual (1 - usual))` of a product's share: that
    of a label where p is 0 or 1, and none where p is `usual`, the mean of those that the model was calibrated on, here
    the mean of all by default. Weights count as so many reviews of today as say as much. `categories` [P] default to
    one for all. The posterior is computed at 600 shares.
    """
    _check(product, positive, weights, num_products)
    names = list(categories) if categories is not None else ["all"] * num_products
    count, effective, share = _evidence(product, positive, weights, num_products)
    centre = _centre(positive, usual)
    # By undecayed reviews: decayed ones make products look more alike than they are.
    plain = _likelihood(product, positive, np.ones(len(product)), num_products, centre)
    fitted = priors or fit_priors(plain, count > 0, names)
    own = tuple(fitted[name] for name in names)
    mean, low, high = _posterior(_likelihood(product, positive, weights, num_products, centre), own)
    rank = np.empty(num_products, np.int64)
    rank[np.lexsort((np.arange(num_products), -mean, -low))] = np.arange(1, num_products + 1)
    return Reputations(count, effective, share, mean, low, high, rank, own)


def changes(
    product: Ints, positive: Floats, ages_days: Floats, found: Reputations, *, days: float = WEEK_DAYS
) -> Changes:
    """What changed in the last `days` against everything before, for the products of `found`.

    Before: the product's prior and its decayed reviews until then. Since: the same prior, as strong as at most
    two reviews and centred at the share before, so that a single review moves little, and the reviews since.
    """
    num_products = len(found.reviews)
    is_recent = ages_days < days
    old, new = ~is_recent, is_recent
    _, effective, share = _evidence(product[old], positive[old], weights_of(ages_days[old]), num_products)
    a = np.array([one.mean * one.strength for one in found.priors]) + np.nan_to_num(share) * effective
    b = np.array([(1 - one.mean) * one.strength for one in found.priors]) + (1 - np.nan_to_num(share)) * effective
    count, recent, recent_share = _evidence(product[new], positive[new], np.ones(int(new.sum())), num_products)
    centre = a / (a + b)
    strength = np.minimum(a + b, 2.0)
    a_since = centre * strength + np.nan_to_num(recent_share) * recent
    b_since = (1 - centre) * strength + (1 - np.nan_to_num(recent_share)) * recent
    chance = np.where(count > 0, chance_higher((a_since, b_since), (a, b)), 0.5)
    return Changes(count, centre, np.where(count > 0, a_since / (a_since + b_since), centre), chance)


def chance_higher(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Floats:
    """P(X > Y) for independent X of Beta(*first) and Y of Beta(*second) [P], over the quantiles of X."""
    chances = (np.arange(CHANGE_POINTS) + 0.5) / CHANGE_POINTS
    points = np.asarray(betaincinv(first[0][None], first[1][None], chances[:, None]), np.float64)
    found: Floats = betainc(second[0][None], second[1][None], points).mean(0)
    return found


def _posterior(likelihood: Floats, priors: Sequence[Prior]) -> tuple[Floats, Floats, Floats]:
    """Mean and interval of products [P]."""
    posterior = likelihood * np.stack([one.mass for one in priors]) if len(priors) else likelihood
    posterior /= posterior.sum(1, keepdims=True)
    below = np.concatenate([np.zeros((len(posterior), 1)), np.cumsum(posterior, 1)], 1)
    bounds = [
        np.array([np.interp(chance, row, EDGES) for row in below]) for chance in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    ]
    return posterior @ SHARES, bounds[0], bounds[1]


def _likelihood(product: Ints, positive: Floats, weights: Floats, num_products: int, centre: float) -> Floats:
    """The likelihood of each of SHARES for products [P, G], with 1 as its highest value."""
    total = np.bincount(product, weights, num_products)
    scale = total / np.maximum(np.bincount(product, weights**2, num_products), 1e-300)
    told = (positive - centre) / (centre * (1 - centre))
    logs = np.zeros((num_products, len(SHARES)))
    for column, share in enumerate(SHARES):
        each = weights * np.log(np.maximum(1 + (share - centre) * told, 1e-12))
        logs[:, column] = np.bincount(product, each, num_products) * scale
    found: Floats = np.exp(logs - logs.max(1, keepdims=True)) if num_products else logs
    return found


def _centre(positive: Floats, usual: float | None) -> float:
    """The share of positive reviews that probabilities were calibrated at."""
    mean = float(positive.mean()) if len(positive) else 0.5
    return float(np.clip(mean if usual is None else usual, 0.01, 0.99))


def _evidence(product: Ints, positive: Floats, weights: Floats, num_products: int) -> tuple[Ints, Floats, Floats]:
    """Reviews, effective reviews and weighted shares of products [P]."""
    count = np.bincount(product, minlength=num_products)
    total = np.bincount(product, weights, num_products)
    squares = np.bincount(product, weights**2, num_products)
    some = total > 0
    effective = np.divide(total**2, squares, out=np.zeros(num_products), where=some)
    weighted = np.bincount(product, weights * positive, num_products)
    return count, effective, np.divide(weighted, total, out=np.full(num_products, np.nan), where=some)


def _check(product: Ints, positive: Floats, weights: Floats, num_products: int) -> None:
    assert len(product) == len(positive) == len(weights)
    assert not len(product) or (product.min() >= 0 and product.max() < num_products)
    if len(positive) and not (np.nanmin(positive) >= 0 and np.nanmax(positive) <= 1 and not np.isnan(positive).any()):
        raise ValueError("how positive a review is must be between 0 and 1; convert ratings by `shares_of_ratings`")
    assert not len(weights) or weights.min() >= 0
