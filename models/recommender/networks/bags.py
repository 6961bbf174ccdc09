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
    """The items of S bags: items [N] and owner [N], the bag of each, ascending; sizes [S], 0 for an empty bag."""

    items: Tensor
    owner: Tensor
    sizes: Tensor

    def mask(self) -> Bags:
        """The same bags without a random share of their items; each bag draws its share uniformly from 0 to 1."""
        share_S = torch.rand(len(self.sizes), device=self.sizes.device)
        kept_N = torch.rand(len(self.items), device=self.items.device) >= share_S[self.owner]
        owner = self.owner[kept_N]
        return Bags(self.items[kept_N], owner, torch.bincount(owner, minlength=len(self.sizes)))

    def embed(self, weight_VD: Tensor) -> Tensor:
        """Sum of the embeddings of each bag's items over the root of their number: [S, D]."""
        starts_S = self.sizes.cumsum(0) - self.sizes
        total_SD = F.embedding_bag(self.items, weight_VD, starts_S, mode="sum")
        return total_SD / self.sizes.clamp_min(1).sqrt()[:, None]


def bags_of_rows(rows: Rows, num_rows: int) -> Bags:
    """One bag for each user of each training row: their items there, including the last target; `num_rows` is V."""
    row = torch.arange(len(rows.segments), device=rows.segments.device)[:, None]
    user = (rows.segments + row * (rows.segments.shape[1] + 1)).flatten()
    items, owner = _distinct(rows.items.flatten(), rows.targets.flatten(), user, num_rows)
    _, owner, sizes = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
    return Bags(items, owner, sizes)


def bags_of_histories(batch: Histories, num_rows: int) -> Bags:
    """One bag for each example, empty where there is no history; `num_rows` is V."""
    user = torch.arange(len(batch.items), device=batch.items.device)[:, None].expand_as(batch.items).flatten()
    items, owner = _distinct(batch.items.flatten(), None, user, num_rows)
    return Bags(items, owner, torch.bincount(owner, minlength=len(batch.items)))


def _distinct(items: Tensor, more: Tensor | None, owner: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Each pair of item and owner once, ordered by owner; padding left out."""
    if more is not None:
        items, owner = torch.cat([items, more]), torch.cat([owner, owner])
    pairs = torch.unique((owner * num_rows + items)[items != PADDING])
    return pairs % num_rows, pairs // num_rows
