"""A recurrent network over a shopper's events: predicts at every place the item that follows.

The line of GRU4Rec (Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016) with full
cross-entropy over all items.

Shapes: B rows, S shoppers, L places, D width.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from models.nn.layers import Dropout

GROUP_LENGTHS = (16, 64)
"""Shoppers of up to so many events run together; those of more form the last group."""


class Recurrent(nn.Module):
    """Embedded events in, one hidden state for each place out; `cell` is "gru" or "lstm"."""

    def __init__(self, *, dim: int, num_blocks: int, dropout: float, cell: str) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.recurrent = kind(dim, dim, num_layers=num_blocks, batch_first=True)
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, segments_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; each shopper of a row starts from an empty state."""
        num_places = segments_BL.shape[1]
        line = segments_BL + torch.arange(len(segments_BL), device=segments_BL.device)[:, None] * (num_places + 1)
        numbered: Any = torch.unique_consecutive(line.flatten(), return_inverse=True, return_counts=True)
        _, shopper, lengths = numbered
        place = torch.arange(len(shopper), device=line.device) - (lengths.cumsum(0) - lengths)[shopper]
        hidden = x_BLD.new_zeros(len(shopper), x_BLD.shape[-1])
        x_TD = x_BLD.flatten(0, 1)
        # Shoppers of similar length run together, padded at the end: that is faster than packed sequences on a CPU.
        for shortest, longest in itertools.pairwise((0, *GROUP_LENGTHS, num_places)):
            chosen = (lengths > shortest) & (lengths <= longest)
            if chosen.any():
                event = chosen[shopper].nonzero().squeeze(1)
                line_of = (chosen.cumsum(0) - 1)[shopper[event]]
                x_SLD = x_TD.new_zeros(int(chosen.sum()), int(lengths[chosen].max()), x_TD.shape[-1])
                x_SLD = x_SLD.index_put((line_of, place[event]), x_TD[event])
                out = self.recurrent(x_SLD)[0][line_of, place[event]]
                hidden = hidden.index_put((event,), out.to(hidden.dtype))
        return self._finish(x_BLD, hidden.view(x_BLD.shape))

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        place = (lengths_B - 1).clamp_min(0)
        rows = torch.arange(len(x_BLD), device=x_BLD.device)
        hidden = self.recurrent(x_BLD)[0][rows, place]
        return self._finish(x_BLD[rows, place], hidden)

    def _finish(self, x: Tensor, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(x + self.dropout(self.output(hidden)))
        return normed
