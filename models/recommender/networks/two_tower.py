"""A two-tower network: averages of a shopper's events, passed through a dense head, meet the embeddings of the items.

The classic embedding recommender (Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016):
the shopper's tower is an average of the embeddings of what they took and a dense head, the item's tower is the
embedding, and the dot product of the two ranks, so that candidates can be found by nearest neighbours. Here several
averages forget at different speeds, so that the head sees the taste and the moment, and there is a target at every
place, as in the other sequential networks.

Shapes: B rows, L places, D width, P averages.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout

MEMORIES = (0.0, 0.5, 0.8, 0.95, 1.0)
"""What an event weighs beside the one after it, in each average: from the last event alone to all alike."""
SHORTCUT = 2
"""The average that passes by the head; it weighs events as the transitions prior does."""


class TwoTower(nn.Module):
    """Embedded events in, one hidden state for each place out; the shopper's tower."""

    memories: Tensor

    def __init__(self, *, dim: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("memories", torch.tensor(MEMORIES), persistent=False)
        self.mix = nn.Linear(len(MEMORIES) * dim, dim)
        self.head = nn.ModuleList(Layer(dim=dim, dropout=dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, segments_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; a place sees itself and earlier places of its own segment."""
        place = torch.arange(segments_BL.shape[1], device=segments_BL.device)
        decayed_PLL = self._decay(place[:, None] - place)
        same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
        averages = []
        for decayed_LL in decayed_PLL:
            weights_BLL = decayed_LL * same_BLL
            averages.append(weights_BLL / weights_BLL.sum(2, keepdim=True) @ x_BLD)
        return self._finish(averages)

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        place = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        decayed_PBL = self._decay((lengths_B - 1).clamp_min(0)[:, None] - place)
        weights_PBL = decayed_PBL / decayed_PBL.sum(2, keepdim=True)
        return self._finish(list((weights_PBL[:, :, None] @ x_BLD)[:, :, 0]))

    def _decay(self, distance: Tensor) -> Tensor:
        """memory ^ distance for each average, 0 for what is later: [P, *distance.shape]."""
        memory = self.memories.view(-1, *[1] * distance.dim())
        return memory ** distance.clamp_min(0) * (distance >= 0)

    def _finish(self, averages: list[Tensor]) -> Tensor:
        x = averages[SHORTCUT] + self.mix(torch.cat(averages, -1))
        for layer in self.head:
            x = layer(x)
        hidden: Tensor = self.norm(x)
        return hidden


class Layer(nn.Module):
    """A feed-forward layer four times as wide, added to what came in."""

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
