"""Boosted regression trees of scikit-learn, stored and evaluated as tensors, so that a bundle has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

CHUNK_ROWS = 4096


class StoredTrees(nn.Module):
    """The sum of at most `num_trees` regression trees, of at most `max_nodes` nodes and `max_depth` levels each.

    The nodes of all trees are buffers [num_trees, max_nodes]; without trees the sum is zero.
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, num_trees: int, max_nodes: int, max_depth: int) -> None:
        super().__init__()
        self.max_depth = max_depth
        shape = (num_trees, max_nodes)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("start", torch.zeros((), dtype=torch.float64))

    def sums(self, rows: Tensor) -> Tensor:
        """The sum of all trees [N] for rows of features [N, F]."""
        return torch.cat([self._sum(part) for part in torch.split(rows.double(), CHUNK_ROWS)])

    def _sum(self, rows: Tensor) -> Tensor:
        """The sum for some rows, which go down all trees together."""
        numbers = torch.arange(len(rows), device=rows.device)[None]
        node = torch.zeros(len(self.feature), len(rows), dtype=torch.int64, device=rows.device)
        for _ in range(self.max_depth):
            goes_left = rows[numbers, self.feature.gather(1, node)] <= self.threshold.gather(1, node)
            node = torch.where(goes_left, self.left.gather(1, node), self.right.gather(1, node))
        return self.start + self.value.gather(1, node).sum(0)

    def store(self, model: Any) -> None:
        """Keep the trees of a fitted HistGradientBoostingRegressor without categories."""
        self.start.fill_(float(np.ravel(model._baseline_prediction)[0]))
        for number, (predictor,) in enumerate(model._predictors):
            self._set(number, predictor.nodes)

    def _set(self, tree: int, nodes: npt.NDArray[Any]) -> None:
        """Store a tree's nodes; a leaf is its own child, so that it may be reached early."""
        count, is_leaf, own = len(nodes), nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        columns = {
            "feature": np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int64),
            "threshold": np.where(is_leaf, 0.0, nodes["num_threshold"]),
            "left": np.where(is_leaf, own, nodes["left"]).astype(np.int64),
            "right": np.where(is_leaf, own, nodes["right"]).astype(np.int64),
            "value": np.where(is_leaf, nodes["value"], 0.0),
        }
        for name, values in columns.items():
            self.get_buffer(name)[tree, :count] = torch.from_numpy(values)
