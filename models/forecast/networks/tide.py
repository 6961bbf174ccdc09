"""TiDE: a residual MLP that encodes history, attributes and what is known ahead, and decodes each period."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.forecast.config import Config
from models.forecast.networks.inputs import InputLayer, Inputs

KNOWN_DIM = 4
"""What is known of each period is projected to so many numbers."""
STEP_DIM = 16
"""Numbers for each period that the decoder hands on."""


class Residual(nn.Module):
    """A hidden layer with a linear skip connection and layer norm."""

    def __init__(self, size: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, out), nn.Dropout(dropout))
        self.skip = nn.Linear(size, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., out]."""
        mixed: Tensor = self.norm(self.layers(x) + self.skip(x))
        return mixed


class Tide(nn.Module):
    """Das et al., "Long-term forecasting with TiDE", TMLR 2023; the simple forecasts enter beside each period."""

    def __init__(self, config: Config, inputs: InputLayer, *, horizon: int) -> None:
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.horizon = horizon
        self.project = Residual(inputs.num_known, dim, KNOWN_DIM, dropout)
        size = config.context * 3 + (config.context + horizon) * KNOWN_DIM + inputs.num_fixed
        size += horizon * inputs.num_simple
        sizes = [size, *[dim] * config.num_blocks]
        self.encoder = nn.Sequential(*(Residual(one, dim, dim, dropout) for one in sizes[:-1]))
        self.decoder = Residual(dim, dim, horizon * STEP_DIM, dropout)
        self.out = Residual(STEP_DIM + KNOWN_DIM + inputs.num_simple, dim, dim, dropout)

    def forward(self, x: Inputs) -> Tensor:
        """A vector for each period [B, H, dim]."""
        known, simple = self.project(x.known), torch.log1p(x.simple)
        flat = [x.history.flatten(1), known.flatten(1), x.fixed, simple.flatten(1)]
        decoded = self.decoder(self.encoder(torch.cat(flat, 1))).unflatten(1, (self.horizon, STEP_DIM))
        found: Tensor = self.out(torch.cat([decoded, known[:, -self.horizon :], simple], -1))
        return found
