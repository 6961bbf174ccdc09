"""Demand by gradient-boosted trees that never rise with the own price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from models.pricing.design import Design
from models.pricing.panel import Floats

MAX_CATEGORIES = 255


@dataclass(frozen=True)
class TreeSettings:
    """How the trees are grown."""

    num_trees: int = 400
    learning_rate: float = 0.05
    max_leaves: int = 31
    min_rows_a_leaf: int = 50
    columns_share: float = 1.0
    max_depth: int | None = None
    names_products: bool = True
    """Whether products are categories, if there are few; else they are numbers, as stored trees need."""
    seed: int = 0


@dataclass(frozen=True)
class TreeDemand:
    """Log units = level + trees. The own price is the first column and in no other one; the trees fall in it."""

    trees: Any

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        result: Floats = design.level + self.trees.predict(tree_columns(design))
        return result


def fit_tree(design: Design, settings: TreeSettings | None = None, *, weights: Floats | None = None) -> TreeDemand:
    """Trees on the rows that are not sold out; `weights` [N] are how often each row counts."""
    settings = settings or TreeSettings()
    columns = tree_columns(design)
    is_used = ~design.censored & (True if weights is None else weights > 0)
    if not is_used.any():
        raise ValueError("every period is sold out: demand is not known for any; trees need periods with stock left")
    product_column = columns.shape[1] - 1
    names_products = settings.names_products and design.num_products <= MAX_CATEGORIES
    trees = HistGradientBoostingRegressor(
        max_iter=settings.num_trees,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaves,
        max_depth=settings.max_depth,
        min_samples_leaf=settings.min_rows_a_leaf,
        max_features=settings.columns_share,
        monotonic_cst=[-1] + [0] * product_column,
        categorical_features=[product_column] if names_products else None,
        early_stopping=False,
        random_state=settings.seed,
    )
    target = design.log_units - design.level
    trees.fit(columns[is_used], target[is_used], None if weights is None else weights[is_used])
    return TreeDemand(trees)


def tree_columns(design: Design) -> Floats:
    """Own price, rivals' prices, context, level and product."""
    last = np.stack([design.level, design.product.astype(np.float64)], axis=1)
    return np.concatenate([design.own[:, None], design.rivals, design.context, last], axis=1)
