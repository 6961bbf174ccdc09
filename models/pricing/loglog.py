"""Log-log demand: least squares by product, shrunk to the products of its group by empirical Bayes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.design import Design
from models.pricing.panel import Floats, Ints
from models.pricing.shrinkage import MIN_PRODUCTS, posterior, prior

MIN_ROWS_A_COLUMN = 3
RIDGE = 1e-8
MIN_SHARE_FITTED = 0.5
"""Share of the products that need enough periods for coefficients of their own."""


@dataclass(frozen=True)
class LogLog:
    """Log units = level + coefficients of a product [P, K] times own price, rivals' prices, context and a constant.

    `spread` [P, K] are standard errors, robust against shocks that the rows of a period share; after shrinkage,
    posterior standard deviations. Products without enough rows have the coefficients of the others.
    """

    coefficients: Floats
    spread: Floats
    scale: Floats

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        result: Floats = design.level + (_columns(design) / self.scale * self.coefficients[design.product]).sum(1)
        return result

    @property
    def elasticity(self) -> Floats:
        """The own-price elasticity [P]."""
        value: Floats = self.coefficients[:, 0] / self.scale[0]
        return value

    @property
    def elasticity_error(self) -> Floats:
        """Standard errors of the elasticity [P]."""
        error: Floats = self.spread[:, 0] / self.scale[0]
        return error


def fit_loglog(design: Design, *, shrink_by: Ints | None = None, weights: Floats | None = None) -> LogLog:
    """Least squares by product; with `shrink_by` [P], shrunk to the mean of the products with the same number.

    `weights` [N] are how often each row counts, as in a bootstrap. Sold-out rows are left out: their demand is not
    known. Coefficients of products are taken as draws of a normal distribution whose mean and variances are fitted by
    maximum likelihood (Efron and Morris, 1975, with EM). Where most products have too few periods for all coefficients,
    these are the same for all products, but for elasticity and level, which are shrunk in the same way.
    """
    columns = _columns(design)
    scale = columns.std(0)
    scale = np.where(scale > RIDGE, scale, 1.0)
    counts = np.where(design.censored, 0.0, np.ones(len(design.own)) if weights is None else weights)
    estimates, covariances = _by_product(design, columns / scale, counts)
    known = ~np.isnan(estimates[:, 0])
    if shrink_by is not None and known.mean() < MIN_SHARE_FITTED:
        return _pooled(design, columns / scale, counts, scale)
    if not known.any():
        raise ValueError(
            f"no product has {MIN_ROWS_A_COLUMN * columns.shape[1]} periods with stock, which least squares needs for "
            f"{columns.shape[1]} columns; take a longer log or smaller demand groups"
        )
    groups = np.zeros(design.num_products, np.int64) if shrink_by is None else shrink_by
    mean, spread = np.empty_like(estimates), np.empty_like(estimates)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        fitted = members[known[members]] if known[members].any() else np.flatnonzero(known)
        shared = prior(estimates[fitted], covariances[fitted])
        is_shrunk = shrink_by is not None and len(fitted) >= MIN_PRODUCTS
        for product in members.tolist():
            if known[product] and not is_shrunk:
                mean[product], spread[product] = (
                    estimates[product],
                    np.sqrt(np.maximum(np.diag(covariances[product]), 0.0)),
                )
            else:
                own = (estimates[product], covariances[product]) if known[product] else None
                mean[product], spread[product] = posterior(own, *shared)
    return LogLog(mean, spread, scale)


def _pooled(design: Design, columns: Floats, counts: Floats, scale: Floats) -> LogLog:
    """Coefficients of all products together; elasticity and level of each product differ from them as its rows say."""
    rows, num_columns = np.flatnonzero(counts > 0), columns.shape[1]
    if counts.sum() < MIN_ROWS_A_COLUMN * num_columns:
        raise ValueError(
            f"{counts.sum():.0f} periods with stock of all products together are too few for {num_columns} columns of "
            "log-log demand; take a longer log"
        )
    target = design.log_units - design.level
    shared, covariance = _least_squares(columns[rows], target[rows], counts[rows], design.period[rows])
    own = [0, num_columns - 1]
    estimates, covariances = _by_product(design, columns[:, own], counts, rest=target - columns @ shared)
    known = ~np.isnan(estimates[:, 0])
    mean = np.tile(shared, (design.num_products, 1))
    spread = np.tile(np.sqrt(np.diag(covariance)), (design.num_products, 1))
    if known.sum() >= MIN_PRODUCTS:
        common = prior(estimates[known], covariances[known])
        for product in range(design.num_products):
            of_product = (estimates[product], covariances[product]) if known[product] else None
            centre, spread[product, own] = posterior(of_product, *common)
            mean[product, own] += centre
    return LogLog(mean, spread, scale)


def _by_product(
    design: Design, columns: Floats, counts: Floats, *, rest: Floats | None = None
) -> tuple[Floats, Floats]:
    """Least squares of each product: coefficients [P, K] and covariances [P, K, K], NaN where rows are too few.

    What is explained [N] is log units less the level, or `rest`.
    """
    target = design.log_units - design.level if rest is None else rest
    num_columns = columns.shape[1]
    estimates = np.full((design.num_products, num_columns), np.nan)
    covariances = np.full((design.num_products, num_columns, num_columns), np.nan)
    for product in range(design.num_products):
        rows = np.flatnonzero((design.product == product) & (counts > 0))
        if counts[rows].sum() >= MIN_ROWS_A_COLUMN * num_columns and len(rows) > num_columns:
            estimates[product], covariances[product] = _least_squares(
                columns[rows], target[rows], counts[rows], design.period[rows]
            )
    return estimates, covariances


def _columns(design: Design) -> Floats:
    constant = np.ones((len(design.own), 1))
    return np.concatenate([design.own[:, None], design.rivals, design.context, constant], axis=1)


def _least_squares(columns: Floats, target: Floats, counts: Floats, periods: Ints) -> tuple[Floats, Floats]:
    """Coefficients and their covariance, clustered by period; columns that do not vary get zero with a wide spread."""
    weighted = columns * counts[:, None]
    gram = weighted.T @ columns
    strength = np.trace(gram) / len(gram)
    inverse = np.linalg.inv(gram + RIDGE * strength * np.eye(len(gram)))
    estimate = inverse @ (weighted.T @ target)
    scores = weighted * (target - columns @ estimate)[:, None]
    _, cluster = np.unique(periods, return_inverse=True)
    sums = np.zeros((cluster.max() + 1, columns.shape[1]))
    np.add.at(sums, cluster, scores)
    num_rows = float(counts.sum())
    correction = len(sums) / max(1, len(sums) - 1) * num_rows / max(1.0, num_rows - columns.shape[1])
    covariance = inverse @ (sums.T @ sums) @ inverse * correction
    is_still = np.diag(gram) < 1e-6 * num_rows
    estimate[is_still] = 0.0
    covariance[is_still] = covariance[:, is_still] = 0.0
    covariance[is_still, is_still] = 100.0
    return estimate, covariance + 1e-10 * np.eye(len(gram))
