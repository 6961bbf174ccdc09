"""A recurrent network over a user's events: predicts the next item at every position.

Based on GRU4Rec (Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016) with full
cross-entropy over all items.

Shapes: B rows, S users, L positions, D width.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from models.nn.layers import Dropout

GROUP_LENGTHS = (16, 64)
"""Users with up to this many events are batched together; the last group has those with more."""


class Recurrent(nn.Module):
    """Embedded events in, one hidden state for each position out; `cell` is "gru" or "lstm"."""

    def __init__(self, *, dim: int, num_blocks: int, dropout: float, cell: str) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.recurrent = kind(dim, dim, num_layers=num_blocks, batch_first=True)
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, segments_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; the state is reset at each user of a row."""
        num_positions = segments_BL.shape[1]
        line = segments_BL + torch.arange(len(segments_BL), device=segments_BL.device)[:, None] * (num_positions + 1)
        numbered: Any = torch.unique_consecutive(line.flatten(), return_inverse=True, return_counts=True)
        _, user, lengths = numbered
        position = torch.arange(len(user), device=line.device) - (lengths.cumsum(0) - lengths)[user]
        hidden = x_BLD.new_zeros(len(user), x_BLD.shape[-1])
        x_TD = x_BLD.flatten(0, 1)
        # Histories of similar length run together, right-padded: on a CPU that is faster than packed sequences.
        for shortest, longest in itertools.pairwise((0, *GROUP_LENGTHS, num_positions)):
            chosen = (lengths > shortest) & (lengths <= longest)
            if chosen.any():
                event = chosen[user].nonzero().squeeze(1)
                line_of = (chosen.cumsum(0) - 1)[user[event]]
                x_SLD = x_TD.new_zeros(int(chosen.sum()), int(lengths[chosen].max()), x_TD.shape[-1])
                x_SLD = x_SLD.index_put((line_of, position[event]), x_TD[event])
                out = self.recurrent(x_SLD)[0][line_of, position[event]]
                hidden = hidden.index_put((event,), out.to(hidden.dtype))
        return self._finish(x_BLD, hidden.view(x_BLD.shape))

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        position = (lengths_B - 1).clamp_min(0)
        rows = torch.arange(len(x_BLD), device=x_BLD.device)
        hidden = self.recurrent(x_BLD)[0][rows, position]
        return self._finish(x_BLD[rows, position], hidden)

    def _finish(self, x: Tensor, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(x + self.dropout(self.output(hidden)))
        return normed
