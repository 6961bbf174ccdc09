"""A demand network whose demand never rises with the own price, with log-log demand as its linear part."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.counts import log_likelihood

KNOTS = (-0.45, -0.35, -0.25, -0.15, -0.05, 0.05)
"""Where the slope of log demand may change, as log price minus the usual one."""
SOFTNESS = 0.03
START_SLOPE = 1.5
MIN_START_SLOPE, MAX_START_SLOPE = 0.3, 6.0
START_DISPERSION = -2.0
START_BEND = 0.05
CENSORED_SPREAD = 0.5
"""Standard deviation of log units around their expectation, for the likelihood of sold-out rows (Tobin, 1958)."""


@dataclass(frozen=True)
class DemandBatch:
    """Inputs of demand [B]: see `models.pricing.design.Design`; `units` and `censored` are for the loss only."""

    product: Tensor
    store: Tensor
    level: Tensor
    own: Tensor
    rivals: Tensor
    has_rival: Tensor
    context: Tensor
    units: Tensor
    log_units: Tensor
    censored: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        return replace(self, **{each.name: getattr(self, each.name).to(device) for each in fields(self)})


class MonotoneDemand(nn.Module):
    """Log of expected demand: level + linear part + dense part - a rising curve of the own price + rivals' prices.

    The own price enters in `_curve` only, with weights that are never negative, so that the analytic slope of every
    row is at most zero. The linear parts have a weight for each product and rival: log-log demand with all cross
    effects is contained. Follows the form of monotone dense networks for demand (Walmart, arXiv 2603.29261).
    """

    def __init__(
        self,
        *,
        num_products: int,
        num_stores: int,
        num_rivals: int,
        num_context: int,
        hidden: int = 96,
        dim: int = 8,
        dropout: float = 0.2,
        counts: bool = False,
    ) -> None:
        super().__init__()
        self.counts = counts
        num_curve = 1 + 2 * len(KNOTS)
        self.register_buffer("mean", torch.zeros(num_context))
        self.register_buffer("std", torch.ones(num_context))
        self.register_buffer("knots", torch.tensor(KNOTS))
        self.product = nn.Embedding(num_products, dim)
        self.store = nn.Embedding(num_stores, dim)
        self.linear = nn.Embedding(num_products, num_context + 1)
        self.cross = nn.Embedding(num_products, num_rivals)
        self.store_level = nn.Embedding(num_stores, 1)
        width = num_context + 2 * dim
        self.trunk = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout))
        self.deep = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 1))
        self.rival_deep = nn.Sequential(nn.Linear(hidden + 3, 32), nn.GELU(), nn.Linear(32, 1))
        self.slopes = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, num_curve))
        self.product_slopes = nn.Embedding(num_products, num_curve)
        self.dispersion = nn.Embedding(num_products, 1)
        self.dispersion.weight.requires_grad_(counts)  # several workers wait for the gradient of each parameter
        self._start()

    def _start(self) -> None:
        for table in (self.linear, self.cross, self.store_level, self.product_slopes, self.dispersion):
            nn.init.zeros_(table.weight)
        for last in (self.deep[-1], self.rival_deep[-1], self.slopes[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.bias)
            nn.init.normal_(last.weight, std=0.01)
        for table in (self.product, self.store):
            nn.init.normal_(table.weight, std=0.1)
        with torch.no_grad():  # the straight line starts at START_SLOPE, what bends it near zero
            self.product_slopes.weight.fill_(math.log(math.expm1(START_BEND)))
            self.dispersion.weight.fill_(START_DISPERSION)
            self.product_slopes.weight[:, 0] = math.log(math.expm1(START_SLOPE))

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """The mean and standard deviation [F] of the context in training rows."""
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("std").copy_(std)

    def start_slopes(self, elasticity: Tensor) -> None:
        """Begin with these own-price elasticities [P] at the usual price."""
        bent = len(KNOTS) * START_BEND  # half of the hinges' slopes count there
        slope = (-elasticity - bent).clamp(MIN_START_SLOPE, MAX_START_SLOPE)
        with torch.no_grad():
            self.product_slopes.weight[:, 0] = torch.log(torch.expm1(slope)).to(self.product_slopes.weight)

    def forward(self, batch: DemandBatch) -> Tensor:
        """Log of expected units [B]."""
        context, wide = self._inputs(batch)
        hidden = self.trunk(wide)
        weights = self.linear(batch.product)
        linear = (weights[:, :-1] * context).sum(-1) + weights[:, -1] + self.store_level(batch.store)[:, 0]
        slopes = self._slopes(batch, wide)
        usual: Tensor = batch.level + linear + self.deep(hidden)[:, 0] + self._cross(batch, hidden)
        result: Tensor = usual - (slopes * self._curve(batch.own)).sum(-1)
        return result

    def _inputs(self, batch: DemandBatch) -> tuple[Tensor, Tensor]:
        """The scaled context [B, F], and the same beside what is learnt of the product and the store."""
        context = (batch.context - self.get_buffer("mean")) / self.get_buffer("std")
        return context, torch.cat([context, self.product(batch.product), self.store(batch.store)], dim=-1)

    def _slopes(self, batch: DemandBatch, wide: Tensor) -> Tensor:
        """The weights of the curve [B, 1 + 2 K], never negative."""
        return F.softplus(self.slopes(wide) + self.product_slopes(batch.product))

    def _curve(self, own: Tensor) -> Tensor:
        """Functions of the own price that never fall [B, 1 + 2 K], zero at the usual price."""
        knots = self.get_buffer("knots")
        above = SOFTNESS * (F.softplus((own[:, None] - knots) / SOFTNESS) - F.softplus(-knots / SOFTNESS))
        below = SOFTNESS * (F.softplus(knots / SOFTNESS) - F.softplus((knots - own[:, None]) / SOFTNESS))
        return torch.cat([own[:, None], above, below], dim=-1)

    def _cross(self, batch: DemandBatch, hidden: Tensor) -> Tensor:
        linear: Tensor = (self.cross(batch.product) * batch.rivals).sum(-1)
        count = batch.has_rival.sum(-1).clamp(min=1)
        summary = torch.stack(
            [batch.rivals.sum(-1) / count, batch.rivals.min(-1).values, batch.rivals.clamp(max=0).sum(-1) / count], -1
        )
        return linear.add(self.rival_deep(torch.cat([hidden, 10 * summary], -1))[:, 0])

    def loss(self, batch: DemandBatch, *, wrong_sign: float = 0.0) -> Tensor:
        """The mean loss of the rows.

        `wrong_sign` weighs a penalty on cross effects by which demand falls when a rival becomes dearer.
        """
        return self.losses(batch).mean() + wrong_sign * F.relu(-self.cross.weight).mean()

    def losses(self, batch: DemandBatch) -> Tensor:
        """The loss of each row [B]: Huber of log units, or a negative binomial likelihood; sold-out rows are lower
        bounds."""
        log_mean = self(batch)
        if self.counts:
            dispersion = F.softplus(self.dispersion(batch.product)[:, 0]) + 1e-4
            return -log_likelihood(log_mean, 1 / dispersion, batch.units, batch.censored)
        residual = log_mean - batch.log_units
        exact = F.huber_loss(residual, torch.zeros_like(residual), reduction="none")
        below = -(CENSORED_SPREAD**2) * torch.special.log_ndtr(residual / CENSORED_SPREAD)
        return torch.where(batch.censored, below, exact)

    def elasticity(self, batch: DemandBatch) -> Tensor:
        """The analytic slope of log demand in the log own price [B]; never above zero."""
        knots = self.get_buffer("knots")
        slopes = self._slopes(batch, self._inputs(batch)[1])
        rising = torch.sigmoid((batch.own[:, None] - knots) / SOFTNESS)
        result: Tensor = -(slopes * torch.cat([torch.ones_like(batch.own)[:, None], rising, 1 - rising], dim=-1)).sum(
            -1
        )
        return result
