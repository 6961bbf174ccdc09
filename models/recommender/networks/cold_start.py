"""Scores for cold-start items: from the items most similar to them, with one offset that is chosen on validation.

A log says nothing of how often to recommend an item that no user has interacted with. All cold-start items share one
offset: the highest at which the other items lose at most MAX_NDCG_DROP of their NDCG@10 on validation, and at which
cold-start items take no larger share of the top ten than they have of the catalogue.

Shapes: B examples, V items + 1 (index 0 is padding), C cold-start items, R CUTOFF, O OFFSETS.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.state_dict import rename_on_load
from models.recommender.data import NO_TARGET, Histories
from models.recommender.item_features import NUM_NEIGHBOURS, NearestNeighbours
from models.recommender.networks.ranking import TUNING_CUTOFF as CUTOFF
from models.recommender.schema import PADDING, Schema

MAX_NDCG_DROP = 0.01
"""Share of their NDCG@10 on validation that the other items may lose to cold-start items."""
HISTORY_WEIGHT = 0.1
"""Weight of a user's last events, next to the predicted probabilities: a user may like items similar to past ones."""
HISTORY_DECAY = 0.6
"""Weight of an event relative to the one after it."""
MIN_PROBABILITY = 1e-9
"""Of a cold-start item that is similar to no other item."""
OFFSETS = tuple(step / 8 for step in range(-80, 81))
"""Candidates on validation; the offset is added to the log-probability of every cold-start item."""


class ColdStartItems(nn.Module):
    """Scores items without training events by their nearest neighbours, the most similar items with events."""

    items: Tensor
    neighbours: Tensor
    weights: Tensor
    offset: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        items = (torch.tensor([1, *schema.item_counts]) == 0).nonzero()[:, 0]
        self.share_of_catalogue = len(items) / schema.num_items
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("neighbours", torch.zeros(len(items), NUM_NEIGHBOURS, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(len(items), NUM_NEIGHBOURS))
        self.register_buffer("offset", torch.tensor(OFFSETS[0]))
        rename_on_load(self, {"alike": "neighbours", "shares": "weights"})  # names until release 0.1

    def set(self, nearest: NearestNeighbours) -> None:
        """Set the nearest neighbours of each cold-start item."""
        # Copies: safetensors refuses tensors that share memory.
        self.neighbours = torch.tensor(nearest.neighbours)
        self.weights = torch.tensor(nearest.weights)

    def fill_scores(self, scores: Tensor, batch: Histories) -> Tensor:
        """Log-probabilities [B, V] of the items with events, and comparable scores for the cold-start items."""
        scores[:, self.items] = -torch.inf
        scores = torch.log_softmax(scores, 1)
        scores[:, self.items] = (
            log_probabilities_of_neighbours(scores, batch, self.neighbours, self.weights) + self.offset
        )
        return scores

    def calibration(self, scores: Tensor, batch: Histories) -> Tensor:
        """NDCG@10 of the other items, and how many of them are in the top ten, summed over the batch: [2, O + 1].

        The first column is without cold-start items, the others are with each of OFFSETS. Seen items are filtered.
        """
        filled = self.fill_scores(scores, batch).scatter_(1, batch.excluded, -torch.inf)
        cold_BR = filled[:, self.items].sub_(self.offset).topk(min(CUTOFF, len(self.items))).values
        filled[:, self.items] = -torch.inf
        others = filled.topk(min(CUTOFF, filled.shape[1]))
        lead = others.values.clamp_min(torch.finfo(filled.dtype).min)[:, :, None] - cold_BR[:, None, :]
        # A cold-start item ranks above another item from the first offset on that is larger than the other's lead.
        first = torch.bucketize(lead, torch.tensor(OFFSETS, device=lead.device), right=True) + 1
        passed_BRO = torch.zeros(*lead.shape[:2], len(OFFSETS) + 2, device=lead.device).scatter_add_(
            2, first, torch.ones_like(lead)
        )
        rank_BRO = torch.arange(1, lead.shape[1] + 1, device=lead.device)[:, None] + passed_BRO.cumsum(2)[:, :, :-1]
        in_top_BRO = (rank_BRO <= CUTOFF) & (others.values > -torch.inf)[:, :, None]
        gains = (in_top_BRO / torch.log2(rank_BRO + 1) * _gains_at_top(batch, others.indices)[:, :, None]).double()
        return torch.stack([gains.sum((0, 1)), in_top_BRO.double().sum((0, 1))])

    def calibrate(self, sums: Tensor) -> None:
        """Set the highest offset within both limits, given `calibration` summed over the validation split."""
        gains, num_in_top = sums
        allowed = (gains >= (1 - MAX_NDCG_DROP) * gains[0]) & (
            num_in_top >= (1 - self.share_of_catalogue) * num_in_top[0]
        )
        num_allowed = int(allowed[1:].long().cumprod(0).sum())
        self.offset = torch.tensor(OFFSETS[max(0, num_allowed - 1)], device=self.offset.device)


def log_probabilities_of_neighbours(
    log_probabilities: Tensor, batch: Histories, neighbours: Tensor, weights: Tensor
) -> Tensor:
    """Logarithms [B, C] of the neighbours' weighted mean of predicted probability and recency in the history.

    log_probabilities [B, V] of all items; neighbours and weights [C, K] of those to score.
    """
    probabilities = log_probabilities.exp()
    back = batch.lengths[:, None] - 1 - torch.arange(batch.items.shape[1], device=probabilities.device)
    weight = HISTORY_DECAY ** back.clamp_min(0) * (back >= 0)
    weight *= HISTORY_WEIGHT / weight.sum(1, keepdim=True).clamp_min(1e-9)
    probabilities.scatter_add_(1, batch.items, weight.to(probabilities.dtype))
    probabilities[:, PADDING] = 0
    mean = F.embedding_bag(neighbours, probabilities.T.contiguous(), per_sample_weights=weights, mode="sum")
    return mean.T.clamp_min(MIN_PROBABILITY).log()


def _gains_at_top(batch: Histories, items: Tensor) -> Tensor:
    """What each of the items [B, R] would add to NDCG@10 at rank 1; 0 for an item that is not relevant."""
    if batch.target_sets is None or batch.target_sets_seen is None:
        return (items == batch.targets[:, None]).float()
    unseen = batch.target_sets.masked_fill(batch.target_sets_seen, NO_TARGET)
    discounts = 1 / torch.log2(torch.arange(2, CUTOFF + 2, device=items.device))
    ideal = discounts.cumsum(0)[(unseen >= 0).sum(1).clamp(1, CUTOFF) - 1]
    return (items[:, :, None] == unseen[:, None, :]).any(2) / ideal[:, None]
