"""Bags of items: the distinct items of a user's events, unordered; the input of the order-agnostic networks.

Shapes: S bags, N items of all bags concatenated, D width, V items + 1 (index 0 is padding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.recommender.data import Histories, Rows
from models.recommender.schema import PADDING


@dataclass(frozen=True)
class Bags:
    """The items of S bags: items [N] and owner [N], the bag of each, ascending; sizes [S], 0 for an empty bag.

    Where types of events have different weights, weights [N]: the largest of an item's events in the bag.
    """

    items: Tensor
    owner: Tensor
    sizes: Tensor
    weights: Tensor | None = None

    def mask(self) -> Bags:
        """The same bags without a random share of their items; each bag draws its share uniformly from 0 to 1."""
        share_S = torch.rand(len(self.sizes), device=self.sizes.device)
        kept_N = torch.rand(len(self.items), device=self.items.device) >= share_S[self.owner]
        owner = self.owner[kept_N]
        weights = None if self.weights is None else self.weights[kept_N]
        return Bags(self.items[kept_N], owner, torch.bincount(owner, minlength=len(self.sizes)), weights)

    def embed(self, weight_VD: Tensor) -> Tensor:
        """Sum of the embeddings of each bag's items over the root of their number, or of their weights': [S, D]."""
        starts_S = self.sizes.cumsum(0) - self.sizes
        if self.weights is not None:
            weights_N = self.weights.to(weight_VD.dtype)
            total_SD = F.embedding_bag(self.items, weight_VD, starts_S, per_sample_weights=weights_N, mode="sum")
            norm_S = torch.zeros_like(self.sizes, dtype=weights_N.dtype).index_add(0, self.owner, weights_N.square())
            return total_SD / norm_S.clamp_min(1e-6).sqrt()[:, None]
        total_SD = F.embedding_bag(self.items, weight_VD, starts_S, mode="sum")
        return total_SD / self.sizes.clamp_min(1).sqrt()[:, None]


def bags_of_rows(rows: Rows, num_rows: int, type_weights: Tensor | None = None) -> Bags:
    """One bag for each user of each training row: their items there, including the last target; `num_rows` is V.

    `type_weights` are the weights of the event types by code.
    """
    row = torch.arange(len(rows.segments), device=rows.segments.device)[:, None]
    user = (rows.segments + row * (rows.segments.shape[1] + 1)).flatten()
    types = None
    if rows.types is not None and rows.target_types is not None:
        types = torch.cat([rows.types.flatten(), rows.target_types.flatten()])
    items = torch.cat([rows.items.flatten(), rows.targets.flatten()])
    items, owner, weights = _distinct(items, torch.cat([user, user]), num_rows, _weights(types, type_weights))
    _, owner, sizes = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
    return Bags(items, owner, sizes, weights)


def bags_of_histories(batch: Histories, num_rows: int, type_weights: Tensor | None = None) -> Bags:
    """One bag for each example, empty where there is no history; `num_rows` is V."""
    user = torch.arange(len(batch.items), device=batch.items.device)[:, None].expand_as(batch.items).flatten()
    types = torch.zeros_like(batch.items) if batch.types is None else batch.types
    items, owner, weights = _distinct(batch.items.flatten(), user, num_rows, _weights(types.flatten(), type_weights))
    return Bags(items, owner, torch.bincount(owner, minlength=len(batch.items)), weights)


def _weights(types: Tensor | None, type_weights: Tensor | None) -> Tensor | None:
    return None if types is None or type_weights is None else type_weights[types]


def _distinct(
    items: Tensor, owner: Tensor, num_rows: int, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each pair of item and owner once, ordered by owner, with its largest weight; padding left out."""
    there = items != PADDING
    pairs = (owner * num_rows + items)[there]
    if weights is None:
        pairs = torch.unique(pairs)
        return pairs % num_rows, pairs // num_rows, None
    pairs, place = torch.unique(pairs, return_inverse=True)
    largest = weights.new_zeros(len(pairs)).scatter_reduce(0, place, weights[there], "amax")
    return pairs % num_rows, pairs // num_rows, largest
