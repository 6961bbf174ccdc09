"""Builds the model that a Config selects, and the hooks of the family: what is fitted, trained, chosen and measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.metrics import BatchMetrics
from models.prepared import Prepared
from models.pricing.config import SLOW, Config
from models.pricing.data import SalesBatch, half_of, training_rows
from models.pricing.design import Design
from models.pricing.dml import Elasticities, double_ml, shrunk
from models.pricing.networks.price_model import PriceModel
from models.pricing.networks.refits import Refits
from models.pricing.report.metrics import measured
from models.pricing.schema import Schema

MAX_ROWS = 120_000
"""Training rows from which elasticities are estimated, at most: whole products by chance beyond them."""


def resolve(config: Config, schema: Schema) -> Config:
    """The config with a head; two members at least where claims are to be checked."""
    head = config.head
    if head == "auto":
        head = "count" if schema.is_count and schema.unit < SLOW else "log"
    if config.network == "monotone" and config.members < 2 and config.evaluators:
        raise ValueError("--members is 1; claims are checked between two halves of the periods: use 2 or more")
    return dataclasses.replace(config, head=head)


def build(config: Config, schema: Schema) -> PriceModel:
    """A model that is not fitted or trained yet."""
    return PriceModel(resolve(config, schema), schema)


def initialise(network: PriceModel, data: Prepared, schema: Schema) -> None:
    """Fit all that is not trained by gradients: evaluators, trees, baselines, scales and elasticities."""
    training = training_rows(data, schema).design(schema)
    half = half_of(training.period, schema)
    halves = [training.rows(half == number) for number in (0, 1)]
    _set_scale(network, training)
    if network.networks() or network.num_evaluators:
        found = [_estimated(part) for part in (training, *halves)]
        values = [[one.value, one.error, one.variation, one.explained] for one in found]
        network.get_buffer("elasticity").copy_(torch.from_numpy(np.array(values)))
        _start_slopes(network, found[1:])
    if network.whole is not None:
        network.whole.fit(training, first_plain=True, seed=[0, 0])
    for role, parts, first_plain in ((1, network.half_members, True), (2, network.evaluators, False)):
        for number, part in enumerate(parts or ()):
            assert isinstance(part, Refits)
            part.fit(halves[number], first_plain=first_plain, seed=[role, number])
    if network.trees is not None:
        _fit_trees(network.trees, halves)
    network.set_smearing(training)


def update_statistics(network: PriceModel, data: Prepared, schema: Schema) -> None:
    """Set what the mean of logarithms leaves out, after each epoch."""
    network.set_smearing(training_rows(data, schema).design(schema))


def loss(network: PriceModel, batch: SalesBatch) -> Tensor:
    """The loss of a training batch."""
    return network.loss(batch)


def evaluate(network: PriceModel, batch: SalesBatch) -> BatchMetrics:
    """Metrics of a batch of held-out rows."""
    return measured(network, batch)


def _set_scale(network: PriceModel, training: Design) -> None:
    std = training.context.std(0)
    mean = torch.from_numpy(training.context.mean(0)).float()
    for member in network.networks():
        member.set_scale(mean, torch.from_numpy(np.where(std > 1e-9, std, 1.0)).float())


def _start_slopes(network: PriceModel, halves: Sequence[Elasticities]) -> None:
    """Networks start from the elasticities that double machine learning finds in their half, shrunk to their mean."""
    for number, member in enumerate(network.networks()):
        value = shrunk(halves[number % 2], np.zeros(len(halves[0].value), np.int64)).value
        if np.isfinite(value).any():
            member.start_slopes(torch.from_numpy(np.where(np.isfinite(value), value, np.nanmean(value))))


def _fit_trees(trees: Refits, halves: list[Design]) -> None:
    """One model of trees for each half, none of them on a bootstrap sample."""
    for number, rows in enumerate(halves):
        trees.fit_plain(number, rows)


def _estimated(rows: Design) -> Elasticities:
    """Double machine learning on the rows, or on those of some products where they are many."""
    if len(rows.own) > MAX_ROWS:
        products = np.random.default_rng(0).permutation(np.unique(rows.product))
        counts = np.bincount(rows.product, minlength=rows.num_products)[products]
        rows = rows.rows(np.isin(rows.product, products[counts.cumsum() <= MAX_ROWS]))
    return double_ml(rows)
