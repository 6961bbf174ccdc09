"""A recurrent network over a shopper's events: predicts at every place the item that follows.

The line of GRU4Rec (Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016) with full
cross-entropy over all items.

Shapes: B rows, S shoppers, L places, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers import Dropout


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
        x_SLD = x_BLD.new_zeros(len(lengths), int(lengths.max()), x_BLD.shape[-1])
        x_SLD = x_SLD.index_put((shopper, place), x_BLD.flatten(0, 1))
        hidden = self._run(x_SLD, lengths)[shopper, place].view(x_BLD.shape)
        return self._finish(x_BLD, hidden)

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        place = (lengths_B - 1).clamp_min(0)
        rows = torch.arange(len(x_BLD), device=x_BLD.device)
        hidden = self._run(x_BLD, lengths_B.clamp_min(1))[rows, place]
        return self._finish(x_BLD[rows, place], hidden)

    def _run(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def _finish(self, x: Tensor, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(x + self.dropout(self.output(hidden)))
        return normed
