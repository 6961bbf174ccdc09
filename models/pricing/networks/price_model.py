"""A model of prices: demand at any price, the same by each half of the periods, and what evaluates its claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.pricing.blend import Blend, Predictor
from models.pricing.config import Config
from models.pricing.data import SalesBatch, half_of
from models.pricing.demand import MAX_LOG, smearing_of
from models.pricing.design import Design
from models.pricing.dml import Elasticities
from models.pricing.fitted import Fitted, Models
from models.pricing.networks.monotone import MonotoneDemand
from models.pricing.networks.refits import Kind, Refits
from models.pricing.panel import Floats, Ints
from models.pricing.schema import Schema
from models.pricing.training import NetworkDemand
from models.raw.demand import CLASSES

SHARES = tuple(np.linspace(0, 1, 11).round(1).tolist())
"""Shares of the trees in a blend, of which validation chooses one."""
MIN_SHARE_GAIN = 0.01
"""Trees get a share only if it lowers the error on validation by this share: their demand has steps, not slopes."""
MAX_CLASS_LOSS = 0.02
"""A share may not raise the error of any class of demand by more than this share."""


class PriceModel(nn.Module):
    """Networks in a blend with trees, or refits of a baseline, with evaluators of another class.

    Members of even number, and what is kept for the first half, have seen even blocks of periods only.
    """

    share: Tensor
    smearing: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.schema, self.kind, self.num_evaluators = schema, config.network, config.evaluators
        num_products = len(schema.products) + 1
        is_network = config.network == "monotone"
        self.members = nn.ModuleList([_network(config, schema) for _ in range(config.members if is_network else 0)])
        self.trees: Refits | None = None
        self.whole: Refits | None = None
        self.half_members: nn.ModuleList | None = None
        if config.network == "monotone":
            self.trees = Refits("tree", 2, schema, trees=config.trees) if config.blend else None
        else:
            kind: Kind = config.network
            self.whole = Refits(kind, config.members, schema, trees=config.trees)
            num_halves = max(1, config.members // 2) if config.evaluators else 0
            self.half_members = nn.ModuleList(
                [Refits(kind, num_halves, schema, trees=config.trees) for _ in range(2 if num_halves else 0)]
            )
        other: Kind = "tree" if config.network == "loglog" else "loglog"
        self.evaluators = nn.ModuleList(
            [Refits(other, config.evaluators, schema, trees=config.trees) for _ in range(2 if config.evaluators else 0)]
        )
        self.register_buffer("share", torch.tensor(0))
        self.register_buffer("smearing", torch.ones(len(self.members), num_products, dtype=torch.float64))
        self.register_buffer("elasticity", torch.full((3, 4, num_products), torch.nan, dtype=torch.float64))

    def loss(self, batch: SalesBatch) -> Tensor:
        """The mean over members and rows of each member's losses, weighted by how often it counts the row."""
        losses = torch.stack([member.losses(batch.demand) for member in self.networks()], 1)
        return (losses.float() * batch.weights).mean()

    def networks(self) -> list[MonotoneDemand]:
        """The networks of the ensemble; none for a baseline."""
        return [member for member in self.members if isinstance(member, MonotoneDemand)]

    def fitted(self) -> Fitted | None:
        """The models for choosing prices and for checking what they gain; None without evaluators."""
        if not self.num_evaluators:
            return None
        demand = self.demand()
        if self.whole is None:
            pairs = list(zip(demand.members, demand.smearing, strict=True))
            halves = [Models([one for one, _ in part], np.stack([of for _, of in part])) for part in _halves(pairs)]
        else:
            halves = [part.models() for part in self.half_members or () if isinstance(part, Refits)]
        evaluators = [part.models() for part in self.evaluators if isinstance(part, Refits)]
        return Fitted(demand, (halves[0], halves[1]), (evaluators[0], evaluators[1]))

    def demand(self) -> Models:
        """All members with the smearing of each."""
        if self.whole is not None:
            return self.whole.models()
        return Models(self.predictors(), self.smearing.cpu().numpy())

    def predictors(self) -> list[Predictor]:
        """All members: networks, blended with the trees of their half of the periods."""
        if self.whole is not None:
            return self.whole.predictors()
        networks = [NetworkDemand(member) for member in self.networks()]
        share = SHARES[int(self.share)]
        if self.trees is None or not share:
            return list(networks)
        trees = self.trees.predictors()
        return [Blend([one, trees[number % 2]], [1 - share, share]) for number, one in enumerate(networks)]

    def member_logs(self, design: Design) -> Floats:
        """Log units of every member [M, N]; the trees of a half are evaluated once for all of its members."""
        if self.whole is not None:
            return np.stack([one.log_units(design) for one in self.whole.predictors()])
        network, trees = self.parts(design)
        share = SHARES[int(self.share)]
        return network if trees is None else (1 - share) * network + share * trees

    def parts(self, design: Design) -> tuple[Floats, Floats | None]:
        """Log units [M, N] of each network, and of the trees that it is blended with, if there are any."""
        network = np.stack([NetworkDemand(member).log_units(design) for member in self.networks()])
        if self.trees is None:
            return network, None
        halves = [one.log_units(design) for one in self.trees.predictors()]
        return network, np.stack([halves[number % 2] for number in range(len(network))])

    def log_units(self, design: Design) -> Floats:
        """The mean of the members' log units [N]."""
        result: Floats = self.member_logs(design).mean(0)
        return result

    def expected(self, logs: Floats, product: Ints) -> Floats:
        """The mean of expected units [N] of members' log units [M, N], with what a mean of logarithms leaves out."""
        smearing = (self.smearing if self.whole is None else self.whole.smearing).cpu().numpy()
        result: Floats = (np.exp(np.minimum(logs, MAX_LOG)) * smearing[:, product]).mean(0)
        return result

    def set_smearing(self, training: Design) -> None:
        """Units by expected units of each member, by product, on the rows of its half."""
        half = half_of(training.period, self.schema)
        for number, one in enumerate(self.predictors() if self.whole is None else ()):
            self.smearing[number] = torch.from_numpy(smearing_of(one, training.rows(half == number % 2)))

    def elasticities(self) -> tuple[Elasticities, Elasticities, Elasticities] | None:
        """Double machine learning's estimates on all training rows and on each half; None where it did not run."""
        found = self.get_buffer("elasticity").cpu().numpy()
        if np.isnan(found[0, 2]).all():
            return None
        one, other, third = (Elasticities(*part) for part in found)
        return one, other, third

    def share_errors(self, batch: SalesBatch) -> Tensor | None:
        """Absolute error of units, summed by class of demand and share of the trees [classes, SHARES]; None without."""
        if self.trees is None:
            return None
        design = batch.design(self.schema)
        network, trees = (np.mean(part, axis=0) for part in self.parts(design) if part is not None)
        logs = [np.minimum((1 - share) * network + share * trees, MAX_LOG) for share in SHARES]
        errors = np.stack([np.abs(design.units - np.exp(one)) for one in logs], 1)
        sums = np.zeros((len(CLASSES), len(SHARES)))
        np.add.at(sums, np.asarray(batch.rows.demand, np.int64), errors)
        return torch.from_numpy(sums)

    def choose_share(self, sums: Tensor) -> None:
        """The share of the trees with the least error on validation that harms no class of demand; none unless that
        is clearly better."""
        total = sums.sum(0)
        harms = (sums > (1 + MAX_CLASS_LOSS) * sums[:, :1]).any(0)
        best = int(total.masked_fill(harms, torch.inf).argmin())
        is_better = bool(total[best] < (1 - MIN_SHARE_GAIN) * total[0])
        self.share.fill_(best if is_better else 0)


def _network(config: Config, schema: Schema) -> MonotoneDemand:
    return MonotoneDemand(
        num_products=len(schema.products) + 1,
        num_stores=len(schema.stores) + 1,
        num_rivals=schema.num_rivals,
        num_context=len(schema.context),
        hidden=config.hidden,
        dropout=config.dropout,
        counts=config.head == "count",
    )


def _halves(pairs: Sequence[tuple[Predictor, Floats]]) -> list[Sequence[tuple[Predictor, Floats]]]:
    return [pairs[0::2], pairs[1::2]]
