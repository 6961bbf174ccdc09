"""Places items without training events among the others, as far up as costs those next to nothing.

A log of events does not say how much room an item deserves that nobody has taken. Here it is a budget: the new items
rise together until the others would lose MAX_LOSS of what they find on validation, or until the new ones have a larger
share of the first ten places than of the catalogue.

Shapes: B examples, V items + 1 (index 0 is padding), C items without training events, R PLACES, O OFFSETS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recommender.data import NO_TARGET, Histories
from models.recommender.networks.item_features import NEIGHBOURS, StandIns
from models.recommender.networks.ranking import CHOOSING_CUTOFF as PLACES
from models.recommender.schema import PADDING, Schema

MAX_LOSS = 0.01
"""Share of their NDCG@10 on validation that the items with events may lose to those without."""
HISTORY = 0.1
"""Weight of a shopper's last events beside the chances of what comes next: who took an item may like one like it."""
DECAY = 0.6
"""What an event weighs in that beside the one after it."""
LEAST_CHANCE = 1e-9
"""Of an item that is like no other."""
OFFSETS = tuple(step / 8 for step in range(-80, 81))
"""Tried on validation: what is added to the logarithm of a new item's chances."""


class Newcomers(nn.Module):
    """Scores of items without events, made of those of the items that are most like them."""

    items: Tensor
    alike: Tensor
    shares: Tensor
    offset: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        items = (torch.tensor([1, *schema.item_counts]) == 0).nonzero()[:, 0]
        self.share_of_catalogue = len(items) / schema.num_items
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("alike", torch.zeros(len(items), NEIGHBOURS, dtype=torch.int64))
        self.register_buffer("shares", torch.zeros(len(items), NEIGHBOURS))
        self.register_buffer("offset", torch.tensor(OFFSETS[0]))

    def set(self, stand_ins: StandIns) -> None:
        """Take the items with events that are most like each of those without."""
        # Copies, for a file of weights holds no two names of one tensor.
        self.alike = torch.tensor(stand_ins.alike)
        self.shares = torch.tensor(stand_ins.shares)

    def place(self, scores: Tensor, batch: Histories) -> Tensor:
        """Log-probabilities [B, V] of the items with events, and the scores of those without beside them."""
        scores[:, self.items] = -torch.inf
        scores = torch.log_softmax(scores, 1)
        scores[:, self.items] = self._log_chances(scores, batch) + self.offset
        return scores

    def room(self, scores: Tensor, batch: Histories) -> Tensor:
        """How much the others find and how many of the first ten places they keep, summed over the batch: [2, O + 1].

        NDCG@10 and places: first without new items, then with them at each of OFFSETS. What was seen is left out.
        """
        placed = self.place(scores, batch).scatter_(1, batch.excluded, -torch.inf)
        new_BR = placed[:, self.items].sub_(self.offset).topk(min(PLACES, len(self.items))).values
        placed[:, self.items] = -torch.inf
        others = placed.topk(min(PLACES, placed.shape[1]))
        lead = others.values.clamp_min(torch.finfo(placed.dtype).min)[:, :, None] - new_BR[:, None, :]
        # A new item stands before one of the others from the first offset on that is larger than its lead.
        first = torch.bucketize(lead, torch.tensor(OFFSETS, device=lead.device), right=True) + 1
        passed_BRO = torch.zeros(*lead.shape[:2], len(OFFSETS) + 2, device=lead.device).scatter_add_(
            2, first, torch.ones_like(lead)
        )
        rank_BRO = torch.arange(1, lead.shape[1] + 1, device=lead.device)[:, None] + passed_BRO.cumsum(2)[:, :, :-1]
        there_BRO = (rank_BRO <= PLACES) & (others.values > -torch.inf)[:, :, None]
        gains = (there_BRO / torch.log2(rank_BRO + 1) * _worth(batch, others.indices)[:, :, None]).double()
        return torch.stack([gains.sum((0, 1)), there_BRO.double().sum((0, 1))])

    def choose(self, sums: Tensor) -> None:
        """Take the highest offset that stays within the budget, given the summed `room`."""
        gains, places = sums
        affordable = (gains >= (1 - MAX_LOSS) * gains[0]) & (places >= (1 - self.share_of_catalogue) * places[0])
        num_affordable = int(affordable[1:].long().cumprod(0).sum())
        self.offset = torch.tensor(OFFSETS[max(0, num_affordable - 1)], device=self.offset.device)

    def _log_chances(self, log_probabilities: Tensor, batch: Histories) -> Tensor:
        """Logarithms [B, C] of what the items most like each new one have together, chances and last events."""
        chances = log_probabilities.exp()
        back = batch.lengths[:, None] - 1 - torch.arange(batch.items.shape[1], device=chances.device)
        weight = DECAY ** back.clamp_min(0) * (back >= 0)
        weight *= HISTORY / weight.sum(1, keepdim=True).clamp_min(1e-9)
        chances.scatter_add_(1, batch.items, weight.to(chances.dtype))
        chances[:, PADDING] = 0
        together = F.embedding_bag(self.alike, chances.T.contiguous(), per_sample_weights=self.shares, mode="sum")
        return together.T.clamp_min(LEAST_CHANCE).log()


def _worth(batch: Histories, items: Tensor) -> Tensor:
    """What it is worth to have each of the items [B, R] in the first place, in NDCG; 0 for what is not to be found."""
    if batch.target_sets is None or batch.target_sets_seen is None:
        return (items == batch.targets[:, None]).float()
    wanted = batch.target_sets.masked_fill(batch.target_sets_seen, NO_TARGET)
    discounts = 1 / torch.log2(torch.arange(2, PLACES + 2, device=items.device))
    ideal = discounts.cumsum(0)[(wanted >= 0).sum(1).clamp(1, PLACES) - 1]
    return (items[:, :, None] == wanted[:, None, :]).any(2) / ideal[:, None]
