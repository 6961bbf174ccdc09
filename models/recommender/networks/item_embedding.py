"""The item side of the networks: an embedding of each item plus those of what the item table says of it.

Items with shared features share what is learnt of them (as in "Meta-Prod2Vec", Vasile et al., RecSys 2016, and FDSA,
Zhang et al., IJCAI 2019). An item that nobody has taken in training has its features and, for its own part, the mean of
the items that are most like it, so that a history may hold it; where it is recommended, newcomers.py says. Leaving out
own parts in training instead, so that the features learn to stand alone (DropoutNet, Volkovs et al., NeurIPS 2017),
made every other item worse; see docs/log.md.

Shapes: D width, V items + 1 (index 0 is padding), F features, C items without training events, N NEIGHBOURS.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.recommender.networks.item_features import NEIGHBOURS, ItemFeatures, StandIns
from models.recommender.schema import PADDING, Schema

FEATURES_STD = 0.02
"""Standard deviation of the features' embeddings at the start; they begin small beside the items' own."""


class ItemEmbedding(nn.Embedding):
    """The embeddings of all items; `weight` [V, D] is their own part."""

    starts: Tensor
    places: Tensor
    new: Tensor
    alike: Tensor
    shares: Tensor

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
            new = (torch.tensor([1, *schema.item_counts]) == 0).nonzero()[:, 0]
            self.register_buffer("new", new, persistent=False)
            self.register_buffer("alike", torch.zeros(len(new), NEIGHBOURS, dtype=torch.int64))
            self.register_buffer("shares", torch.zeros(len(new), NEIGHBOURS))

    def set_features(self, features: ItemFeatures, stand_ins: StandIns) -> None:
        """Take the features of each item, and the items that stand in for those without training events."""
        self.starts = torch.from_numpy(features.starts)
        self.places = torch.from_numpy(features.places)
        self.alike = torch.from_numpy(stand_ins.alike)
        self.shares = torch.from_numpy(stand_ins.shares)

    def forward(self, items: Tensor) -> Tensor:
        """Embeddings of some items, any shape, [.., D]."""
        return F.embedding(items, self.table(), PADDING)

    def table(self) -> Tensor:
        """Embeddings of all items [V, D]; kept between the calls of inference."""
        if self.features is None:
            return self.weight
        if self.training or torch.is_grad_enabled():
            return self._sum()
        if self._table is None or self._table.device != self.weight.device:
            self._table = self._sum()
        return self._table

    def targets(self) -> Tensor | None:
        """Indices of the items that training tells apart, ascending; None if these are all."""
        if self.features is None or not len(self.new):
            return None
        among = torch.ones(self.num_embeddings, dtype=torch.bool, device=self.new.device)
        among[self.new] = False
        among[PADDING] = False
        return among.nonzero()[:, 0]

    def train(self, mode: bool = True) -> ItemEmbedding:
        """To training or to inference; the weights may have changed since the last one."""
        self._table = None
        return super().train(mode)

    def _sum(self) -> Tensor:
        assert self.features is not None
        own_part = self.weight
        if not self.training and len(self.new):
            mean_CD = (self.weight[self.alike] * self.shares[:, :, None]).sum(1)
            own_part = own_part.index_copy(0, self.new, mean_CD)
        counts = self.starts.diff()
        scale = counts.clamp_min(1).rsqrt().repeat_interleave(counts, output_size=len(self.places))
        of_features = F.embedding_bag(
            self.places.long(),
            self.features.weight,
            self.starts,
            mode="sum",
            per_sample_weights=scale,
            include_last_offset=True,
        )
        return own_part + of_features

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # How many features the items have together is known only from the file.
        self._table = None
        stored = state_dict.get(prefix + "places")
        if stored is not None and self.features is not None:
            self.places = torch.zeros(len(stored), dtype=stored.dtype, device=self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
