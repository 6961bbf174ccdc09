"""Embeddings of event types: of each event, and of the type that is asked for next.

A position sees the type of its event and whether the next event is a target, as conditions of the prediction. In
training the second is known from the next event; in prediction a target is asked for, so that a network trained on
views and purchases answers what would be bought. Both embeddings start at zero, where they change nothing.

Shapes: B examples, L positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.recommender.data import Histories, Rows
from models.recommender.schema import Schema


class TypeEmbedding(nn.Module):
    """What is added to the item embeddings of a sequential network."""

    is_target: Tensor

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__()
        num_codes = len(schema.event_types) + 1
        self.types = nn.Embedding(num_codes, dim, _weight=torch.zeros(num_codes, dim))
        self.wanted = None
        if schema.is_target is not None:
            self.wanted = nn.Embedding(2, dim, _weight=torch.zeros(2, dim))
            self.register_buffer("is_target", torch.from_numpy(schema.is_target).long(), persistent=False)

    def forward(self, types: Tensor, wanted: Tensor | None) -> Tensor:
        """Embeddings [B, L, D], given the codes of the types and whether a target is wanted next, each [B, L]."""
        embedded: Tensor = self.types(types)
        return embedded if self.wanted is None or wanted is None else embedded + self.wanted(wanted)

    def of_rows(self, rows: Rows) -> Tensor:
        """Embeddings [B, L, D] of training rows."""
        assert rows.types is not None and rows.target_types is not None, "the rows of this log have no types"
        embedded: Tensor = self(rows.types, None if self.wanted is None else self.is_target[rows.target_types])
        return embedded

    def codes(self, batch: Histories) -> tuple[Tensor, Tensor | None]:
        """Types of the histories, and where a target is wanted: after the last event, and before every other one."""
        types = torch.zeros_like(batch.items) if batch.types is None else batch.types
        if self.wanted is None:
            return types, None
        wanted = self.is_target[torch.cat([types[:, 1:], types[:, :1]], 1)]
        return types, wanted.scatter(1, (batch.lengths[:, None] - 1).clamp_min(0), 1)
