"""A trained forecast: a network's vector of each period becomes a mean and a distribution of demand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.forecast.config import Config
from models.forecast.data import Windows
from models.forecast.networks.distributions import LEVELS, quantile_losses
from models.forecast.networks.inputs import InputLayer
from models.forecast.networks.rnn import Recurrent
from models.forecast.networks.simple import simple_forecasts
from models.forecast.networks.tide import Tide
from models.forecast.schema import CENSORED, UNKNOWN, Schema
from models.nn.counts import log_likelihood

SMALLEST = 0.01
"""The smallest simple forecast that the mean starts from, in multiples of the level."""
MEAN_WEIGHT = 0.5
"""Weight of the squared error of the mean beside the quantile losses."""


class Learned(nn.Module):
    """Tide or Recurrent with a head: the mean is a mixture of the simple forecasts, moved by the network."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.is_count, self.season = config.head == "count", schema.season
        self.inputs = InputLayer(config, schema)
        make = Tide if config.network == "tide" else Recurrent
        self.body: nn.Module = make(config, self.inputs, horizon=schema.horizon)
        self.mixture = nn.Linear(config.dim, self.inputs.num_simple)
        self.move = nn.Linear(config.dim, 2)
        self.shape = nn.Linear(config.dim, 1 if self.is_count else len(LEVELS))
        # Before training the forecast is the mean of the simple ones.
        for layer in (self.mixture, self.move, self.shape):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: Windows, simple: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [B, H], and the dispersion [B, H] of a count head or the quantiles [B, H, LEVELS]."""
        x = self.inputs(batch, simple)
        hidden = self.body(x).float()
        start = (x.simple * self.mixture(hidden).float().softmax(-1)).sum(-1).clamp_min(SMALLEST)
        factor, extra = self.move(hidden).float().unbind(-1)
        # A promotion multiplies demand; what no simple forecast sees is added.
        mean = x.level[:, None] * (start * factor.clamp(-4, 3).exp() + F.softplus(extra - 5))
        shape = self.shape(hidden).float()
        if self.is_count:
            return mean, shape.squeeze(-1).clamp(-6, 8).exp()
        # From zero on, each quantile adds a step to the one below; the first may be below zero, and is then zero.
        first, steps = shape[..., :1] - 0.5, F.softplus(shape[..., 1:] - 2)
        scaled = (mean / x.level[:, None])[..., None] + torch.cat([first, first + steps.cumsum(-1)], -1)
        return mean, x.level[:, None, None] * scaled

    def loss(self, batch: Windows) -> Tensor:
        """The mean loss of the known and censored periods."""
        mean, shape = self.forward(batch, simple_forecasts(batch, self.season))
        weight = (batch.target_status != UNKNOWN).float()
        is_censored = batch.target_status == CENSORED
        if self.is_count:
            losses = -log_likelihood(mean.log(), shape, batch.target, is_censored)  # as in DeepAR, Salinas et al., 2020
        else:
            level = (shape.detach().abs().mean((1, 2)) + 1e-3)[:, None]
            levels = shape.new_tensor(LEVELS)
            pinball = quantile_losses(shape, batch.target, is_censored, levels).mean(-1)
            missed = torch.where(is_censored, (batch.target - mean).clamp_min(0), batch.target - mean)
            losses = pinball / level + MEAN_WEIGHT * F.huber_loss(
                missed / level, torch.zeros_like(missed), reduction="none", delta=5.0
            )
        return (losses * weight).sum() / weight.sum().clamp_min(1)
