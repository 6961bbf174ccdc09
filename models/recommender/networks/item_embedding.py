"""Item embeddings: an ID embedding of each item plus the embeddings of its features from the item table.

Items share what is learned about their common features (as in "Meta-Prod2Vec", Vasile et al., RecSys 2016, and FDSA,
Zhang et al., IJCAI 2019). A cold-start item has its features and, in place of an ID embedding, the mean of its nearest
neighbours, so that it may occur in a history; cold_start.py decides where it is ranked. Dropping ID embeddings in
training, so that the features suffice without them (DropoutNet, Volkovs et al., NeurIPS 2017), made every other item
worse; see docs/log.md.

Shapes: D width, V items + 1 (index 0 is padding), F features, C cold-start items, N NUM_NEIGHBOURS.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.state_dict import rename_on_load, resize_on_load
from models.recommender.item_features import NUM_NEIGHBOURS, ItemFeatures, NearestNeighbours
from models.recommender.schema import PADDING, Schema

FEATURES_STD = 0.02
"""Standard deviation of the feature embeddings at the start: small next to the ID embeddings."""


class ItemEmbedding(nn.Embedding):
    """The embeddings of all items; `weight` [V, D] are the ID embeddings."""

    starts: Tensor
    places: Tensor
    cold: Tensor
    trained: Tensor
    neighbours: Tensor
    neighbour_weights: Tensor

    def __init__(self, schema: Schema, dim: int, *, rowwise: bool = False) -> None:
        # With features the table is a sum, and its gradient a dense one.
        sparse = rowwise and not schema.num_features
        super().__init__(schema.num_items + 1, dim, padding_idx=PADDING, sparse=sparse)
        nn.init.normal_(self.weight, std=dim**-0.5)
        self.features = nn.Embedding(schema.num_features, dim) if schema.num_features else None
        self._table: Tensor | None = None
        if self.features is not None:
            nn.init.normal_(self.features.weight, std=FEATURES_STD)
            self.register_buffer("starts", torch.zeros(schema.num_items + 2, dtype=torch.int64))
            self.register_buffer("places", torch.zeros(0, dtype=torch.int32))
            cold = (torch.tensor([1, *schema.item_counts]) == 0).nonzero()[:, 0]
            self.register_buffer("cold", cold, persistent=False)
            is_target = torch.tensor([0, *schema.item_counts]) > 0
            self.register_buffer("trained", is_target.nonzero()[:, 0], persistent=False)
            self.register_buffer("neighbours", torch.zeros(len(cold), NUM_NEIGHBOURS, dtype=torch.int64))
            self.register_buffer("neighbour_weights", torch.zeros(len(cold), NUM_NEIGHBOURS))
            rename_on_load(self, {"alike": "neighbours", "shares": "neighbour_weights"})  # names until release 0.1
            resize_on_load(self, "places")

    def set_features(self, features: ItemFeatures, nearest: NearestNeighbours) -> None:
        """Set the features of each item, and the nearest neighbours of each cold-start item."""
        self.starts = torch.from_numpy(features.starts)
        self.places = torch.from_numpy(features.places)
        self.neighbours = torch.from_numpy(nearest.neighbours)
        self.neighbour_weights = torch.from_numpy(nearest.weights)

    def forward(self, items: Tensor) -> Tensor:
        """Embeddings of some items, any shape, [.., D]."""
        return F.embedding(items, self.table(), PADDING)

    def table(self) -> Tensor:
        """Embeddings of all items [V, D]; cached during inference."""
        if self.features is None:
            return self.weight
        if self.training or torch.is_grad_enabled():
            return self._sum()
        if self._table is None or self._table.device != self.weight.device:
            self._table = self._sum()
        return self._table

    def targets(self) -> Tensor | None:
        """Indices of the items that can be a target in training, ascending; None if all can."""
        return None if self.features is None or not len(self.cold) else self.trained

    def train(self, mode: bool = True) -> ItemEmbedding:
        """Switch to training or inference, and drop the cached table: the weights may have changed."""
        self._table = None
        return super().train(mode)

    def _sum(self) -> Tensor:
        assert self.features is not None
        id_embeddings = self.weight
        if not self.training and len(self.cold):
            mean_CD = (self.weight[self.neighbours] * self.neighbour_weights[:, :, None]).sum(1)
            id_embeddings = id_embeddings.index_copy(0, self.cold, mean_CD)
        counts = self.starts.diff()
        scale = counts.clamp_min(1).rsqrt().repeat_interleave(counts, output_size=len(self.places))
        feature_embeddings = F.embedding_bag(
            self.places.long(),
            self.features.weight,
            self.starts,
            mode="sum",
            per_sample_weights=scale,
            include_last_offset=True,
        )
        return id_embeddings + feature_embeddings

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._table = None
        super()._load_from_state_dict(state_dict, prefix, *args)
