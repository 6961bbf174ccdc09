"""What the sequential networks share: an encoder between tied item embeddings, trained to say the next item.

Shapes: B examples, L places, D width, V items + 1 (index 0 is padding), T targets of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import Dropout, linear_cross_entropy
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.gru import Recurrent
from models.recommender.negatives import SharedNegatives
from models.recommender.schema import PADDING, Schema
from models.recommender.transformer import Transformer
from models.recommender.two_tower import TwoTower

Encoder = Transformer | Recurrent | TwoTower
"""forward(x_BLD, segments_BL) -> [B, L, D] for all places, last(x_BLD, lengths_B) -> [B, D] for the last ones."""

FULL_SOFTMAX_ITEMS = 20_000
"""Up to this many items the softmax runs over all of them, unless the config says otherwise."""
ROWWISE_ITEMS = 200_000
"""Beyond, the rows that a step has not used are passed over: that learns a little less a step, and costs far less."""
ENCODE_ROWS = 64
"""Histories of similar length that are encoded together."""


class NextItem(nn.Module):
    """One of the three things that learn in a Recommender; the others are Autoencoder and Gan."""

    encoder: Encoder

    def __init__(self, config: Config, schema: Schema, encoder: Encoder) -> None:
        super().__init__()
        self.max_length = config.max_length
        self.encoder = encoder
        sampled = config.loss == "sampled" or (config.loss == "auto" and schema.num_items > FULL_SOFTMAX_ITEMS)
        rowwise = sampled and schema.num_items > ROWWISE_ITEMS
        self.items = nn.Embedding(schema.num_items + 1, config.dim, padding_idx=PADDING, sparse=rowwise)
        nn.init.normal_(self.items.weight, std=config.dim**-0.5)
        self.dropout = Dropout(config.dropout)
        self.negatives = SharedNegatives(schema.item_counts, config.num_negatives) if sampled else None

    def loss(self, batch: Rows) -> Tensor:
        """Mean cross-entropy of the next item at every place that has one, over all items or shared negatives."""
        hidden_BLD = self.encoder(self.dropout(self.items(batch.items)), batch.segments)
        there = batch.targets != PADDING
        # Row 0 of the embedding is padding: it takes no part in the softmax.
        hidden_TD, targets_T = hidden_BLD[there], batch.targets[there] - 1
        if self.negatives is None:
            return linear_cross_entropy(hidden_TD, self.items.weight[1:], targets_T)
        candidates_C, place_T, correction_C = self.negatives.draw(targets_T)
        return linear_cross_entropy(hidden_TD, self.items(candidates_C + 1), place_T, correction_C)

    def log_scores(self, batch: Histories) -> Tensor:
        """Log-probabilities [B, V - 1] of the next item, without padding."""
        return torch.log_softmax(self._encode(batch) @ self.items.weight[1:].T, 1)

    def _encode(self, batch: Histories) -> Tensor:
        """Hidden states [B, D] of the histories, encoded in groups of similar length so that little is padding."""
        lengths = batch.lengths.clamp_max(self.max_length)
        order = lengths.argsort()
        hidden_BD = self.items.weight.new_empty(len(lengths), self.items.weight.shape[1])
        for group in torch.split(order, ENCODE_ROWS):
            length = lengths[group]
            longest = max(1, int(length.max()))
            place = (batch.lengths[group] - length)[:, None] + torch.arange(longest, device=length.device)
            items = batch.items[group].gather(1, place.clamp_max(batch.items.shape[1] - 1))
            hidden_BD[group] = self.encoder.last(self.items(items), length).to(hidden_BD.dtype)
        return hidden_BD
