"""The reputation of products: decayed numbers of reviews, shrunk to their category, with intervals and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.reviews.reputation.beta import Floats, Ints, beta_cdf, beta_quantile, mixture_quantile
from models.reviews.reputation.prior import Prior, fit_priors

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


@dataclass(frozen=True)
class Certainty:
    """How much calibrated probabilities say of the labels behind them."""

    share: float
    """The mean probability of all reviews."""
    sharpness: float
    """The mean of positive reviews minus that of negative ones; 1 if the labels are known."""


KNOWN = Certainty(0.5, 1.0)
LEAST_SHARPNESS = 0.05


def certainty_of(probabilities: Floats) -> Certainty:
    """The certainty of calibrated probabilities [N]: their variance is share x (1 - share) x sharpness."""
    share = float(np.mean(probabilities)) if len(probabilities) else 0.5
    most = max(share * (1 - share), 1e-9)
    return Certainty(share, float(np.clip(np.var(probabilities) / most, LEAST_SHARPNESS, 1.0)))


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
    certainty: Certainty = KNOWN,
) -> Reputations:
    """Reputations from reviews [N]: index of the product, how positive from 0 to 1, weight.

    `positive` is a calibrated probability that a review is positive, or comes from its rating. The mean probability of
    a very good product is nearer to that of all than its share of positive reviews is; `certainty` of the
    probabilities takes that back, and counts each review as `sharpness` of one with a known label. A product's share of
    positive reviews has the posterior Beta(a + n s, b + n (1 - s)) with the decayed share s, the effective number n
    and its category's prior, a mixture of Beta(a, b); `categories` [P] default to one for all.
    """
    _check(product, positive, weights, num_products)
    names = list(categories) if categories is not None else ["all"] * num_products
    count, effective, share = _evidence(product, positive, weights, num_products, certainty)
    known = np.nan_to_num(share) * effective
    # By plain counts: decayed ones are fractions, whose likelihood takes products for more alike than they are.
    _, plain, plain_share = _evidence(product, positive, np.ones(len(product)), num_products, certainty)
    fitted = priors or fit_priors(np.nan_to_num(plain_share) * plain, plain, names)
    own = tuple(fitted[name] for name in names)
    mean, low, high = _posterior(known, effective, own)
    rank = np.empty(num_products, np.int64)
    rank[np.lexsort((np.arange(num_products), -mean, -low))] = np.arange(1, num_products + 1)
    return Reputations(count, effective, share, mean, low, high, rank, own)


def changes(
    product: Ints,
    positive: Floats,
    ages_days: Floats,
    found: Reputations,
    *,
    days: float = WEEK_DAYS,
    certainty: Certainty = KNOWN,
) -> Changes:
    """What changed in the last `days` against everything before, for the products of `found`.

    Before: the product's prior and its decayed reviews until then. Since: the same prior, as strong as at most
    two reviews and centred at the share before, so that a single review moves little, and the reviews since.
    """
    num_products = len(found.reviews)
    is_recent = ages_days < days
    old, new = ~is_recent, is_recent
    _, effective, share = _evidence(product[old], positive[old], weights_of(ages_days[old]), num_products, certainty)
    a = np.array([one.mean * one.strength for one in found.priors]) + np.nan_to_num(share) * effective
    b = np.array([(1 - one.mean) * one.strength for one in found.priors]) + (1 - np.nan_to_num(share)) * effective
    count, recent, recent_share = _evidence(
        product[new], positive[new], np.ones(int(new.sum())), num_products, certainty
    )
    centre = a / (a + b)
    strength = np.minimum(a + b, 2.0)
    a_since = centre * strength + np.nan_to_num(recent_share) * recent
    b_since = (1 - centre) * strength + (1 - np.nan_to_num(recent_share)) * recent
    chance = np.where(count > 0, chance_higher((a_since, b_since), (a, b)), 0.5)
    return Changes(count, centre, np.where(count > 0, a_since / (a_since + b_since), centre), chance)


def chance_higher(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Floats:
    """P(X > Y) for independent X of Beta(*first) and Y of Beta(*second) [P], over the quantiles of X."""
    chances = (np.arange(CHANGE_POINTS) + 0.5) / CHANGE_POINTS
    points = beta_quantile(chances[:, None], first[0][None], first[1][None])
    found: Floats = beta_cdf(points, second[0][None], second[1][None]).mean(0)
    return found


def _posterior(known: Floats, effective: Floats, priors: Sequence[Prior]) -> tuple[Floats, Floats, Floats]:
    """Mean and interval of products [P]; products of one prior are computed together."""
    mean, low, high = (np.empty(len(known)) for _ in range(3))
    for prior in {id(one): one for one in priors}.values():
        rows = np.flatnonzero([one is prior for one in priors])
        a = prior.positive + known[rows, None]
        b = prior.negative + (effective - known)[rows, None]
        mean[rows] = (prior.weights * a / (a + b)).sum(1)
        low[rows] = mixture_quantile((1 - LEVEL) / 2, a, b, prior.weights)
        high[rows] = mixture_quantile((1 + LEVEL) / 2, a, b, prior.weights)
    return mean, low, high


def _evidence(
    product: Ints, positive: Floats, weights: Floats, num_products: int, certainty: Certainty
) -> tuple[Ints, Floats, Floats]:
    """Reviews, effective reviews and weighted shares of products [P]."""
    count = np.bincount(product, minlength=num_products)
    total = np.bincount(product, weights, num_products)
    squares = np.bincount(product, weights**2, num_products)
    some = total > 0
    effective = np.divide(total**2, squares, out=np.zeros(num_products), where=some)
    weighted = np.bincount(product, weights * positive, num_products)
    mean = np.divide(weighted, total, out=np.full(num_products, np.nan), where=some)
    share = certainty.share + (mean - certainty.share) / certainty.sharpness
    return count, effective * certainty.sharpness, np.clip(share, 0.0, 1.0)


def _check(product: Ints, positive: Floats, weights: Floats, num_products: int) -> None:
    assert len(product) == len(positive) == len(weights)
    assert not len(product) or (product.min() >= 0 and product.max() < num_products)
    if len(positive) and not (np.nanmin(positive) >= 0 and np.nanmax(positive) <= 1 and not np.isnan(positive).any()):
        raise ValueError("how positive a review is must be between 0 and 1; convert ratings by `shares_of_ratings`")
    assert not len(weights) or weights.min() >= 0
