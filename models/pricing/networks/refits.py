"""Refits of log-log demand, trees and usual levels on bootstrap samples, kept as buffers so that a bundle has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.nn.stored_trees import StoredTrees
from models.pricing.blend import Predictor
from models.pricing.demand import smearing_of
from models.pricing.design import Design
from models.pricing.fitted import Models
from models.pricing.loglog import LogLog, fit_loglog
from models.pricing.panel import Floats
from models.pricing.schema import Schema
from models.pricing.tree import TreeSettings, fit_tree, tree_columns
from models.pricing.weeks import bootstrap_weights

Kind = Literal["loglog", "tree", "usual"]
MAX_NODES, MAX_DEPTH = 31, 6
MAX_TREE_ROWS = 150_000


@dataclass(frozen=True)
class StoredTreeDemand:
    """Log units = level + stored trees, which fall in the own price."""

    trees: StoredTrees

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        columns = torch.from_numpy(tree_columns(design)).to(self.trees.value.device)
        with torch.inference_mode():
            result: Floats = design.level + self.trees.sums(columns).cpu().numpy()
        return result


@dataclass(frozen=True)
class UsualDemand:
    """The usual level, whatever the price."""

    def log_units(self, design: Design) -> Floats:
        """Log of the units of every row [N]."""
        return design.level


class Refits(nn.Module):
    """Some refits of one class of model: the first as fitted, or all on bootstrap samples of blocks of periods."""

    smearing: Tensor

    def __init__(self, kind: Kind, size: int, schema: Schema, *, trees: int = 1) -> None:
        super().__init__()
        self.kind, self.num_trees, self.block = kind, trees, schema.block
        num_products = len(schema.products) + 1
        self.register_buffer("smearing", torch.ones(size, num_products, dtype=torch.float64))
        if kind == "loglog":
            width = 2 + schema.num_rivals + len(schema.context)
            self.register_buffer("coefficients", torch.zeros(size, num_products, width, dtype=torch.float64))
            self.register_buffer("scale", torch.ones(size, width, dtype=torch.float64))
        if kind == "tree":
            self.members = nn.ModuleList([StoredTrees(trees, 2 * MAX_NODES - 1, MAX_DEPTH) for _ in range(size)])

    def __len__(self) -> int:
        return len(self.smearing)

    def fit(self, training: Design, *, first_plain: bool, seed: Sequence[int]) -> None:
        """Fit all members to the rows; with `first_plain` the first one without a bootstrap."""
        draw = np.random.default_rng(list(seed))
        for number in range(len(self)):
            if first_plain and number == 0:
                self.fit_plain(0, training)
                continue
            weights = bootstrap_weights(training.period, draw, length=self.block)
            self._fit_one(number, training.rows(weights > 0), weights[weights > 0], seed=number)
            self.smearing[number] = torch.from_numpy(smearing_of(self.predictors()[number], training))

    def fit_plain(self, number: int, training: Design) -> None:
        """Fit one member to all of the rows as they are."""
        self._fit_one(number, training, np.ones(len(training.own)), seed=number)
        self.smearing[number] = torch.from_numpy(smearing_of(self.predictors()[number], training))

    def predictors(self) -> list[Predictor]:
        """The members as models of demand."""
        match self.kind:
            case "loglog":
                coefficients = self.get_buffer("coefficients").cpu().numpy()
                scale = self.get_buffer("scale").cpu().numpy()
                return [LogLog(one, np.zeros_like(one), of) for one, of in zip(coefficients, scale, strict=True)]
            case "tree":
                return [StoredTreeDemand(one) for one in self.members if isinstance(one, StoredTrees)]
            case _:
                return [UsualDemand() for _ in range(len(self))]

    def models(self) -> Models:
        """The members with the smearing of each."""
        return Models(self.predictors(), self.smearing.cpu().numpy())

    def _fit_one(self, number: int, rows: Design, weights: Floats, *, seed: int) -> None:
        match self.kind:
            case "loglog":
                fitted = fit_loglog(rows, shrink_by=np.zeros(rows.num_products, np.int64), weights=weights)
                self.get_buffer("coefficients")[number] = torch.from_numpy(fitted.coefficients)
                self.get_buffer("scale")[number] = torch.from_numpy(fitted.scale)
            case "tree":
                trees = self.members[number]
                assert isinstance(trees, StoredTrees)
                trees.store(self._trees(rows, weights, seed=seed))
            case _:
                pass

    def _trees(self, rows: Design, weights: Floats, *, seed: int) -> object:
        if len(rows.own) > MAX_TREE_ROWS:
            chosen = np.sort(np.random.default_rng(seed).choice(len(rows.own), MAX_TREE_ROWS, replace=False))
            rows, weights = rows.rows(chosen), weights[chosen]
        settings = TreeSettings(
            num_trees=self.num_trees,
            max_leaves=MAX_NODES,
            max_depth=MAX_DEPTH,
            columns_share=0.5,
            names_products=False,
            seed=seed,
            min_rows_a_leaf=max(5, min(50, len(rows.own) // 100)),
        )
        return fit_tree(rows, settings, weights=weights).trees
