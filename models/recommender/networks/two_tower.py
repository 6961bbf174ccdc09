"""A two-tower network: the dot product of a user tower over averaged events and an item embedding.

The classic embedding recommender (Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016):
the user tower is a dense head over the average embedding of the user's events, the item tower is the embedding, and
items are ranked by the dot product, so that candidates can be retrieved by nearest-neighbour search. Here several
averages decay at different rates, so that the head sees long-term and short-term interests, and every position has a
target, as in the other sequential networks.

Shapes: B rows, L positions, D width, P averages.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout

MEMORIES = (0.0, 0.5, 0.8, 0.95, 1.0)
"""Weight of an event relative to the one after it, in each average: from the last event only to a plain mean."""
SHORTCUT = 2
"""The average that skips the head (a residual connection); it decays as in the transitions prior."""


class TwoTower(nn.Module):
    """Embedded events in, one hidden state for each position out; the user tower."""

    memories: Tensor

    has_static_steps = True

    def __init__(self, *, dim: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("memories", torch.tensor(MEMORIES), persistent=False)
        self.mix = nn.Linear(len(MEMORIES) * dim, dim)
        self.head = nn.ModuleList(Layer(dim=dim, dropout=dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, segments_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; a position sees itself and earlier positions of its own segment."""
        position = torch.arange(segments_BL.shape[1], device=segments_BL.device)
        decayed_PLL = self._decay(position[:, None] - position)
        same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
        averages = []
        for decayed_LL in decayed_PLL:
            weights_BLL = decayed_LL * same_BLL
            averages.append(weights_BLL / weights_BLL.sum(2, keepdim=True) @ x_BLD)
        return self._finish(averages)

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        position = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        decayed_PBL = self._decay((lengths_B - 1).clamp_min(0)[:, None] - position)
        weights_PBL = decayed_PBL / decayed_PBL.sum(2, keepdim=True)
        return self._finish(list((weights_PBL[:, :, None] @ x_BLD)[:, :, 0]))

    def _decay(self, distance: Tensor) -> Tensor:
        """memory ^ distance for each average, 0 for later events: [P, *distance.shape]."""
        memory = self.memories.view(-1, *[1] * distance.dim())
        return memory ** distance.clamp_min(0) * (distance >= 0)

    def _finish(self, averages: list[Tensor]) -> Tensor:
        x = averages[SHORTCUT] + self.mix(torch.cat(averages, -1))
        for layer in self.head:
            x = layer(x)
        hidden: Tensor = self.norm(x)
        return hidden


class Layer(nn.Module):
    """A feed-forward layer four times as wide, with a residual connection."""

    def __init__(self, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape [.., D]."""
        out: Tensor = x + self.dropout(self.narrow(F.relu(self.widen(self.norm(x)))))
        return out
