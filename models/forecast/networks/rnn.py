"""A recurrent network: a GRU reads the history, and another one goes on over what is known of the next periods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.forecast.config import Config
from models.forecast.networks.inputs import InputLayer, Inputs


class Recurrent(nn.Module):
    """An encoder and a decoder, Cho et al., EMNLP 2014; the decoder sees no forecasts of its own."""

    def __init__(self, config: Config, inputs: InputLayer, *, horizon: int) -> None:
        super().__init__()
        dim, layers = config.dim, config.num_blocks
        dropout = config.dropout if layers > 1 else 0.0
        self.horizon = horizon
        size = inputs.num_known + inputs.num_fixed
        self.encoder = nn.GRU(3 + size, dim, layers, batch_first=True, dropout=dropout)
        self.decoder = nn.GRU(inputs.num_simple + size, dim, layers, batch_first=True, dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Inputs) -> Tensor:
        """A vector for each period [B, H, dim]."""
        known, ahead = x.known[:, : -self.horizon], x.known[:, -self.horizon :]

        def with_fixed(*parts: Tensor) -> Tensor:
            return torch.cat([*parts, x.fixed[:, None].expand(-1, parts[0].shape[1], -1)], -1)

        _, state = self.encoder(with_fixed(x.history, known))
        outputs, _ = self.decoder(with_fixed(torch.log1p(x.simple), ahead), state)
        found: Tensor = self.norm(outputs)
        return found
