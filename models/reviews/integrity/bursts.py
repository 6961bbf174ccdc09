"""Bursts: days on which a product has many more reviews than usual that resemble each other and are extreme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.reviews.integrity.minhash import Floats, Ints, Pairs

WINDOW_DAYS = 60
"""The product's own rate comes from so many days before and after, without the day itself and its neighbours."""
NEIGHBOUR_DAYS = 1
PRIOR_DAYS = 30.0
"""The rate is pulled to the mean of the log, as if it had been seen for so many days."""
MIN_REVIEWS = 3
"""A day with fewer reviews is never a burst."""
LEAST_ALIKE, LEAST_EXTREME = 0.01, 0.3
"""What a day keeps of its score without similar texts, and without extreme ratings: a burst of praise is no
more extreme than the usual reviews of a good product."""
SMALLEST_CHANCE = 1e-300


@dataclass(frozen=True)
class Bursts:
    """The days of products with at least MIN_REVIEWS reviews [D]."""

    product: Ints
    day: Ints
    reviews: Ints
    expected: Floats
    """Reviews a day by the product's own rate."""
    chance: Floats
    """The probability of at least so many reviews, by a Poisson distribution."""
    similarity: Floats
    """The share of the day's reviews that are nearly the same as another of the product."""
    extremity: Floats
    """The larger share of ratings that are the lowest or the highest, above what is usual for the product, 0 to 1."""
    score: Floats
    """-log10(chance) x similarity x extremity, the two last not below LEAST_ALIKE and LEAST_EXTREME."""


def bursts(product: Ints, day: Ints, positive: Floats, pairs: Pairs) -> Bursts:
    """Scores every day with enough reviews; reviews [N] have an index of the product, a day and how positive they are.

    `pairs` are near-duplicates among the reviews; those of one product count.
    """
    assert len(product) == len(day) == len(positive)
    has_twin = np.zeros(len(product), bool)
    same = product[pairs.first] == product[pairs.second]
    has_twin[pairs.first[same]] = has_twin[pairs.second[same]] = True
    first_day, last_day = (int(day.min()), int(day.max())) if len(day) else (0, 0)
    num_products = int(product.max()) + 1 if len(product) else 0
    span = last_day - first_day + 1
    usual = len(product) / max(num_products * span, 1)
    found = list[tuple[float, ...]]()
    order = np.lexsort((day, product))
    for rows in np.split(order, np.flatnonzero(np.diff(product[order])) + 1):
        if len(rows) >= MIN_REVIEWS:
            found += _of_product(rows, day, positive, has_twin, (first_day, last_day, usual), int(product[rows[0]]))
    columns = np.array(found, np.float64).reshape(-1, 6).T
    named, one, count = columns[:3].astype(np.int64)
    expected, similarity, extremity = columns[3:]
    chance = poisson_tail(columns[2], expected)
    score = -np.log10(chance) * np.maximum(similarity, LEAST_ALIKE) * np.maximum(extremity, LEAST_EXTREME)
    return Bursts(named, one, count, expected, chance, similarity, extremity, score)


def poisson_tail(count: Floats, mean: Floats) -> Floats:
    """P(X >= count) for X of Poisson(mean), of any shape; counts are at least 1."""
    tail = torch.special.gammainc(torch.from_numpy(count.astype(np.float64)), torch.from_numpy(mean))
    return np.asarray(np.maximum(tail.numpy(), SMALLEST_CHANCE), np.float64)


def _of_product(
    rows: Ints,
    day: Ints,
    positive: Floats,
    has_twin: npt.NDArray[np.bool_],
    log: tuple[int, int, float],
    product: int,
) -> list[tuple[float, ...]]:
    """Product, day, reviews, expected, similarity and extremity of each day with enough reviews."""
    first_day, last_day, usual = log
    own_days, own_positive = day[rows], positive[rows]
    found = list[tuple[float, ...]]()
    for one, count in zip(*np.unique(own_days, return_counts=True), strict=True):
        if count < MIN_REVIEWS:
            continue
        at = own_days == one
        near = np.abs(own_days - one)
        others = int(((near > NEIGHBOUR_DAYS) & (near <= WINDOW_DAYS)).sum())
        seen = min(one + WINDOW_DAYS, last_day) - max(one - WINDOW_DAYS, first_day) + 1 - (2 * NEIGHBOUR_DAYS + 1)
        rate = (others + usual * PRIOR_DAYS) / (max(seen, 0) + PRIOR_DAYS)
        extremity = _extremity(own_positive[at], own_positive[~at])
        found.append((product, one, count, rate, float(has_twin[rows][at].mean()), extremity))
    return found


def _extremity(inside: Floats, outside: Floats) -> float:
    """How much larger the share of very positive or very negative reviews is than on other days, 0 to 1."""
    best = 0.0
    for here, elsewhere in ((inside >= 0.9, outside >= 0.9), (inside <= 0.1, outside <= 0.1)):
        usual = (elsewhere.sum() + 1.0) / (len(outside) + 2.0)
        best = max(best, (float(here.mean()) - usual) / max(1.0 - usual, 1e-9))
    return min(best, 1.0)
