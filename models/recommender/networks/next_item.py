"""The part that the sequential networks share: an encoder between tied item embeddings, trained on the next item.

Shapes: B examples, L positions, D width, V items + 1 (index 0 is padding), T targets of a batch.
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
from models.recommender.event_weights import event_weights, loss_weights
from models.recommender.networks.item_embedding import ItemEmbedding
from models.recommender.networks.negatives import SharedNegatives
from models.recommender.networks.type_embedding import TypeEmbedding
from models.recommender.schema import PADDING, Schema

FULL_SOFTMAX_ITEMS = 20_000
"""Up to this many items the softmax runs over all of them, unless the config says otherwise."""
ROWWISE_ITEMS = 200_000
"""Above this, updates skip the embedding rows that a step did not use: slightly worse per step, and far cheaper."""
ENCODE_ROWS = 32
"""Histories of similar length that are encoded together."""
LENGTH_STEP = 16
"""They are padded to a multiple of this: oneDNN compiles code for every new shape, which costs more than padding."""


class Encoder(Protocol):
    """A torch module that encodes embedded events as hidden states: one of ours or of another package."""

    def __call__(self, x_BLD: Tensor, segments_BL: Tensor, /) -> Tensor:
        """Hidden states [B, L, D]; a position sees itself and earlier positions of its own segment."""
        ...

    def last(self, x_BLD: Tensor, lengths_B: Tensor, /) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history."""
        ...


class NextItem(nn.Module):
    """One of the learners of a Recommender, with Autoencoder and Gan."""

    encoder: Encoder
    type_weights: Tensor | None

    def __init__(self, config: Config, schema: Schema, encoder: Encoder) -> None:
        super().__init__()
        self.max_length = config.max_length
        self.encoder = encoder
        num_trained = sum(count > 0 for count in schema.item_counts) if schema.num_features else schema.num_items
        sampled = config.loss == "sampled" or (config.loss == "auto" and num_trained > FULL_SOFTMAX_ITEMS)
        self.items = ItemEmbedding(schema, config.dim, rowwise=sampled and schema.num_items > ROWWISE_ITEMS)
        self.dropout = Dropout(config.dropout)
        self.negatives = SharedNegatives(schema.item_counts, config.num_negatives) if sampled else None
        self.types = TypeEmbedding(schema, config.dim) if schema.has_types else None
        weights = loss_weights(event_weights(config.weights, schema), schema)
        self.register_buffer("type_weights", weights, persistent=False)

    @property
    def has_static_steps(self) -> bool:
        """Whether a step may be captured as a CUDA graph, see the training loop: not with sampled candidates."""
        return self.negatives is None and getattr(self.encoder, "has_static_steps", False)

    def loss(self, batch: Rows) -> Tensor:
        """Mean cross-entropy of the next item at every position that has one, over all items or shared negatives.

        The next events are weighted by their type.
        """
        table = self.items.table()
        embedded_BLD = self._look_up(batch.items, table)
        if self.types is not None:
            embedded_BLD = embedded_BLD + self.types.of_rows(batch)
        hidden_BLD = self.encoder(self.dropout(embedded_BLD), batch.segments)
        if self.negatives is None:
            return self._full_loss(hidden_BLD, batch, table)
        there = batch.targets != PADDING
        hidden_TD, targets_T = hidden_BLD[there], batch.targets[there] - 1
        weights_T = None
        if self.type_weights is not None and batch.target_types is not None:
            weights_T = self.type_weights[batch.target_types[there]]
        candidates_C, index_T, correction_C = self.negatives.draw(targets_T)
        embedded_CD = self._look_up(candidates_C + 1, table)
        return linear_cross_entropy(hidden_TD, embedded_CD, index_T, correction_C, importance_T=weights_T)

    def _full_loss(self, hidden_BLD: Tensor, batch: Rows, table: Tensor) -> Tensor:
        """The loss over all items; padding has weight 0, as the shape of a selection would have to be waited for."""
        targets_T = batch.targets.flatten()
        weights_T = (targets_T != PADDING).float()
        share = weights_T.mean()
        if self.type_weights is not None and batch.target_types is not None:
            weights_T = weights_T * self.type_weights[batch.target_types.flatten()]
        # Row 0 of the embedding is padding: it takes no part in the softmax.
        among_C = self.items.targets()
        if among_C is None:
            index_T, candidates_CD = (targets_T - 1).clamp_min(0), table[1:]
        else:  # an item that is never a target would only be pushed down
            index_T = torch.searchsorted(among_C, targets_T).clamp_max(len(among_C) - 1)
            candidates_CD = table[among_C]
        hidden_TD = hidden_BLD.flatten(0, 1)
        return linear_cross_entropy(hidden_TD, candidates_CD, index_T, importance_T=weights_T) / share

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
        """Hidden states [B, D] of the histories, encoded in groups of similar length to limit padding."""
        lengths = batch.lengths.clamp_max(self.max_length)
        order = lengths.argsort()
        hidden_BD = table.new_empty(len(lengths), table.shape[1])
        codes = None if self.types is None else self.types.codes(batch)
        for group in torch.split(order, ENCODE_ROWS):
            length = lengths[group]
            longest = min(LENGTH_STEP * math.ceil(max(1, int(length.max())) / LENGTH_STEP), self.max_length)
            position = (batch.lengths[group] - length)[:, None] + torch.arange(longest, device=length.device)
            position = position.clamp_max(batch.items.shape[1] - 1)
            embedded_BLD = F.embedding(batch.items[group].gather(1, position), table)
            if self.types is not None and codes is not None:
                chosen = [None if code is None else code[group].gather(1, position) for code in codes]
                embedded_BLD = embedded_BLD + self.types(*chosen)
            hidden_BD[group] = self.encoder.last(embedded_BLD, length).to(hidden_BD.dtype)
        return hidden_BD
