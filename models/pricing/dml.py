"""Elasticities by double machine learning: cross-fitted, with standard errors, shrunk to the products of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV

from models.pricing.design import Design
from models.pricing.panel import Floats, Ints
from models.pricing.shrinkage import MIN_PRODUCTS, posterior, prior
from models.pricing.weeks import folds

NUM_FOLDS = 5
MIN_VARIATION = 1e-6
MIN_ROWS = 4
RIDGE_PENALTIES = (0.1, 1.0, 10.0, 100.0)
Z_90 = 1.645


class Nuisance(Protocol):
    """A regression with scikit-learn's methods."""

    def fit(self, X: Floats, y: Floats) -> object: ...

    def predict(self, X: Floats) -> Floats: ...


class LineThenTrees:
    """Ridge regression, and trees on what it leaves: trees alone need many leaves for a straight line."""

    def __init__(self, seed: int) -> None:
        self.line = RidgeCV(alphas=RIDGE_PENALTIES)
        self.trees = HistGradientBoostingRegressor(
            max_iter=300, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=20, random_state=seed
        )

    def fit(self, X: Floats, y: Floats) -> LineThenTrees:
        """Fit to columns [N, F] and targets [N]."""
        self.scale = np.maximum(X.std(0), MIN_VARIATION)
        self.line.fit(X / self.scale, y)
        self.trees.fit(X, y - self.line.predict(X / self.scale))
        return self

    def predict(self, X: Floats) -> Floats:
        """Predictions [N]."""
        result: Floats = self.line.predict(X / self.scale) + self.trees.predict(X)
        return result


@dataclass(frozen=True)
class Elasticities:
    """Own-price elasticities [P] with standard errors [P]; NaN for products whose price never moves by itself.

    `variation` [P] is the share of the variance of log prices that context does not predict; `explained` [P] the
    share of the remaining variance of log units that the remaining price explains.
    """

    value: Floats
    error: Floats
    variation: Floats
    explained: Floats

    def interval(self, z: float = Z_90) -> tuple[Floats, Floats]:
        """The bounds of the interval, of 90 % unless said otherwise."""
        return self.value - z * self.error, self.value + z * self.error


def double_ml(
    design: Design,
    *,
    num_folds: int = NUM_FOLDS,
    num_rounds: int = 1,
    learner: Callable[[int], Nuisance] = LineThenTrees,
    seed: int = 0,
) -> Elasticities:
    """The effect of log prices on log units by product, after what context and rivals predict of both is taken off.

    Prices and units are predicted from other blocks of periods than their own, and the rest of one is regressed on the
    rest of the other, with errors clustered by period. Partially linear model of Chernozhukov et al. (2018). With
    several rounds the folds are shifted, and the medians of values and errors are taken, as they propose.
    """
    used = design.rows(~design.censored)
    found = []
    for number in range(num_rounds):
        fold = folds(used.period, num_folds=num_folds, shift=number)
        found.append(_one_round(used, fold, partial(learner, seed + number)))
    return Elasticities(
        value=np.median([one.value for one in found], 0),
        error=np.median([one.error for one in found], 0),
        variation=np.median([one.variation for one in found], 0),
        explained=np.median([one.explained for one in found], 0),
    )


def shrunk(found: Elasticities, groups: Ints) -> Elasticities:
    """The elasticities shrunk to the mean of their group by empirical Bayes; those that are not known get the mean."""
    value, error = found.value.copy(), found.error.copy()
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        known = members[np.isfinite(found.value[members])]
        if len(known) < MIN_PRODUCTS:
            continue
        variances = found.error[known, None, None] ** 2
        shared = prior(found.value[known, None], variances)
        value[members], error[members] = (float(one[0]) for one in posterior(None, *shared))
        for product, variance in zip(known.tolist(), variances, strict=True):
            own = posterior((found.value[product, None], variance), *shared)
            value[product], error[product] = (float(one[0]) for one in own)
    return Elasticities(value, error, found.variation, found.explained)


def _one_round(used: Design, fold: Ints, learner: Callable[[], Nuisance]) -> Elasticities:
    columns, price = nuisance_columns(used), used.own
    price_rest = _rest(columns, price, fold, learner)
    units_rest = _rest(columns, used.log_units - used.level, fold, learner)
    found = np.full((4, used.num_products), np.nan)
    for product in range(used.num_products):
        own = np.flatnonzero(used.product == product)
        if len(own) >= MIN_ROWS:
            found[:, product] = _slope(price[own], price_rest[own], units_rest[own], used.period[own])
    return Elasticities(*found)


def _slope(price: Floats, price_rest: Floats, units_rest: Floats, periods: Ints) -> tuple[float, float, float, float]:
    """Value, error, variation and explained share of one product, see Elasticities."""
    left, right = price_rest - price_rest.mean(), units_rest - units_rest.mean()
    strength = float(left @ left)
    total = float(np.square(price - price.mean()).sum())
    variation = strength / total if total > MIN_VARIATION * len(left) else 0.0
    if min(strength, total) < MIN_VARIATION * len(left):
        return np.nan, np.nan, variation, np.nan
    slope = float(left @ right) / strength
    _, period = np.unique(periods, return_inverse=True)
    scores = np.bincount(period, left * (right - slope * left))
    error = float(np.sqrt(np.square(scores).sum() * len(scores) / max(1, len(scores) - 1)) / strength)
    return slope, error, variation, slope**2 * strength / max(float(right @ right), MIN_VARIATION)


def _rest(columns: Floats, target: Floats, fold: Ints, learner: Callable[[], Nuisance]) -> Floats:
    """What is left of the target after predictions by models that have not seen its block of periods."""
    rest = np.empty_like(target)
    for number in np.unique(fold):
        is_held = fold == number
        if is_held.all():
            raise ValueError("double machine learning needs at least two blocks of four periods; take a longer log")
        fitted = learner()
        fitted.fit(columns[~is_held], target[~is_held])
        rest[is_held] = target[is_held] - fitted.predict(columns[is_held])
    return rest


def nuisance_columns(design: Design) -> Floats:
    """What prices and units are predicted from: rivals' prices, context, level and usual price, but no own price."""
    last = np.stack([design.level, design.usual, design.product.astype(np.float64)], axis=1)
    return np.concatenate([design.rivals, design.context, last], axis=1)
