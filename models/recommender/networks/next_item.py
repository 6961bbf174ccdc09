"""What the sequential networks share: an encoder between tied item embeddings, trained to say the next item.

Shapes: B examples, L places, D width, V items + 1 (index 0 is padding), T targets of a batch.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout, linear_cross_entropy
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.networks.negatives import SharedNegatives
from models.recommender.schema import PADDING, Schema

FULL_SOFTMAX_ITEMS = 20_000
"""Up to this many items the softmax runs over all of them, unless the config says otherwise."""
ROWWISE_ITEMS = 200_000
"""Beyond, the rows that a step has not used are passed over: that learns a little less a step, and costs far less."""
ENCODE_ROWS = 32
"""Histories of similar length that are encoded together."""
LENGTH_STEP = 16
"""Their length is a multiple of this: oneDNN makes new code for every shape, which takes longer than some padding."""


class Encoder(Protocol):
    """What turns embedded events into hidden states, a torch module: one of ours, or a network of another package."""

    def __call__(self, x_BLD: Tensor, segments_BL: Tensor, /) -> Tensor:
        """Hidden states [B, L, D]; a place sees itself and earlier places of its own segment."""
        ...

    def last(self, x_BLD: Tensor, lengths_B: Tensor, /) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        ...


class NextItem(nn.Module):
    """One of the three things that learn in a Recommender; the others are Autoencoder and Gan."""

    encoder: Encoder

    def __init__(self, config: Config, schema: Schema, encoder: Encoder) -> None:
        super().__init__()
        self.max_length = config.max_length
        self.encoder = encoder
        num_trained = sum(count > 0 for count in schema.item_counts) if schema.num_features else schema.num_items
        sampled = config.loss == "sampled" or (config.loss == "auto" and num_trained > FULL_SOFTMAX_ITEMS)
        self.items = ItemEmbedding(schema, config.dim, rowwise=sampled and schema.num_items > ROWWISE_ITEMS)
        self.dropout = Dropout(config.dropout)
        self.negatives = SharedNegatives(schema.item_counts, config.num_negatives) if sampled else None

    def loss(self, batch: Rows) -> Tensor:
        """Mean cross-entropy of the next item at every place that has one, over all items or shared negatives."""
        table = self.items.table()
        hidden_BLD = self.encoder(self.dropout(self._look_up(batch.items, table)), batch.segments)
        there = batch.targets != PADDING
        # Row 0 of the embedding is padding: it takes no part in the softmax.
        hidden_TD, targets_T = hidden_BLD[there], batch.targets[there] - 1
        among_C = self.items.targets()
        if self.negatives is None and among_C is not None:
            # An item that is never a target would only learn to stay away.
            return linear_cross_entropy(hidden_TD, table[among_C], torch.searchsorted(among_C, targets_T + 1))
        if self.negatives is None:
            return linear_cross_entropy(hidden_TD, table[1:], targets_T)
        candidates_C, place_T, correction_C = self.negatives.draw(targets_T)
        return linear_cross_entropy(hidden_TD, self._look_up(candidates_C + 1, table), place_T, correction_C)

    def log_scores(self, batch: Histories) -> Tensor:
        """Log-probabilities [B, V - 1] of the next item, without padding."""
        table = self.items.table()
        hidden_BD = self._encode(batch, table)
        with torch.autocast(hidden_BD.device.type, enabled=False):
            return torch.log_softmax(hidden_BD @ table[1:].T, 1)

    def _look_up(self, items: Tensor, table: Tensor) -> Tensor:
        """Embeddings to train, any shape, [.., D]; sparse gradients where the table is updated by rows."""
        return F.embedding(items, table, PADDING, sparse=self.items.sparse)

    def _encode(self, batch: Histories, table: Tensor) -> Tensor:
        """Hidden states [B, D] of the histories, encoded in groups of similar length so that little is padding."""
        lengths = batch.lengths.clamp_max(self.max_length)
        order = lengths.argsort()
        hidden_BD = table.new_empty(len(lengths), table.shape[1])
        for group in torch.split(order, ENCODE_ROWS):
            length = lengths[group]
            longest = min(LENGTH_STEP * math.ceil(max(1, int(length.max())) / LENGTH_STEP), self.max_length)
            place = (batch.lengths[group] - length)[:, None] + torch.arange(longest, device=length.device)
            items = batch.items[group].gather(1, place.clamp_max(batch.items.shape[1] - 1))
            hidden_BD[group] = self.encoder.last(F.embedding(items, table), length).to(hidden_BD.dtype)
        return hidden_BD
