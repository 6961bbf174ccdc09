"""Scores of items that a network does not know: from the items most similar to them, whatever the network is.

A new item scores like a cold-start item of the item table: the weighted mean of what its neighbours have, in predicted
probability and recency in the history, and an offset.

Shapes: B examples, V items + 1 (index 0 is padding), N new items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.recommender.data import Histories
from models.recommender.held_out import Example
from models.recommender.live.new_items import NewItems
from models.recommender.networks.cold_start import log_probabilities_of_neighbours
from models.recommender.schema import PADDING

OFFSET = 0.0
"""Of a model without cold-start items, which has calibrated none. The highest whole number at which the others lost at
most 1 % of their NDCG@10 on Amazon Toys; see docs/items.md."""


def with_new_items(scores: Tensor, batch: Histories, *, offset: Tensor | None) -> Tensor:
    """The scores [B, V] with columns for the new items of the batch [B, V + N]; -inf for withdrawn items.

    `offset` is that of the model's cold-start items, whose scores are then log-probabilities already.
    """
    new = batch.new
    if new is None:
        return scores
    if len(new.ids):
        log_probabilities = scores.log_softmax(1) if offset is None else scores
        neighbours, weights = new.neighbours.to(scores.device), new.weights.to(scores.device)
        added = log_probabilities_of_neighbours(log_probabilities, batch, neighbours, weights)
        added += OFFSET if offset is None else offset
        scores = torch.cat([log_probabilities, added], 1)
    mask(scores, batch)
    return scores


def mask(scores: Tensor, batch: Histories) -> None:
    """Set to -inf in [B, V + N] the withdrawn items, and new ones that are similar to none unless there is a filter."""
    new = batch.new
    if new is None:
        return
    scores.index_fill_(1, new.withdrawn.to(scores.device), -torch.inf)
    unplaced = new.is_unplaced.nonzero()[:, 0].to(scores.device) + new.first
    if len(unplaced):
        without_filter = [row for row, example in enumerate(batch.examples) if example.allowed is None]
        scores[torch.tensor(without_filter, device=scores.device).long()[:, None], unplaced] = -torch.inf


def with_new_embeddings(embeddings: Tensor, new: NewItems | None) -> Tensor:
    """The embeddings [V, D], and those of new items as the weighted means of their neighbours': [V + N, D]."""
    if new is None or not len(new.ids):
        return embeddings
    neighbours, weights = new.neighbours.to(embeddings.device), new.weights.to(embeddings.device)
    means = F.embedding_bag(neighbours, embeddings, per_sample_weights=weights, mode="sum")
    return torch.cat([embeddings, F.normalize(means, dim=1)])


def explain_new(new: NewItems, items: Sequence[int], explanations: Sequence[int], example: Example) -> list[int]:
    """The explanations of recommended items, of new ones a similar item, and neighbours as what they replace."""
    history = set(example.history)
    return [
        _most_alike(new, item, history) if item >= new.first else example.replaced.get(event, event)
        for item, event in zip(items, explanations, strict=True)
    ]


def _most_alike(new: NewItems, item: int, history: set[int]) -> int:
    """The nearest neighbour in the history, else the nearest of all; PADDING for an item that is similar to none."""
    row = item - new.first
    if new.is_unplaced[row]:
        return PADDING
    neighbours: list[int] = new.neighbours[row].tolist()
    weights: list[float] = new.weights[row].tolist()
    alike = [each for each, weight in zip(neighbours, weights, strict=True) if weight > 0]
    return next((each for each in alike if each in history), alike[0])
