"""What a network sees of a window, scaled by the level of its series."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.forecast.config import Config
from models.forecast.data import Windows
from models.forecast.networks.simple import NAMES, levels
from models.forecast.schema import CENSORED, KNOWN, Schema
from models.raw.demand import CLASSES

EMBEDDING = 8


@dataclass(frozen=True)
class Inputs:
    """A batch for a network, by whose outputs demand is forecast in multiples of `level`."""

    level: Tensor
    """[B]"""
    history: Tensor
    """[B, L, 3]: log of the units, whether they are known, whether stock ran out."""
    known: Tensor
    """[B, L + H, F]"""
    simple: Tensor
    """[B, H, NAMES] the simple forecasts."""
    fixed: Tensor
    """[B, E] attributes, class of demand, logs of the level and of the length of the history."""


class InputLayer(nn.Module):
    """Makes Inputs; embeds the attributes of products and the class of demand."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        sizes = [len(values) for values in schema.static.values()]
        self.embeddings = nn.ModuleList([nn.Embedding(size, EMBEDDING) for size in [*sizes, len(CLASSES)]])
        self.unit = schema.unit
        self.num_fixed = EMBEDDING * len(self.embeddings) + 2
        self.num_known = schema.num_known
        self.num_simple = len(NAMES)

    def forward(self, batch: Windows, simple: Tensor) -> Inputs:
        """The inputs of a batch and its simple forecasts [B, H, NAMES]."""
        level = levels(batch, self.unit)
        known = (batch.status == KNOWN).float()
        scaled = torch.log1p(batch.units / level[:, None])
        censored = (batch.status == CENSORED).float()
        codes = [*batch.static.unbind(1), batch.demand]
        embedded = [embedding(code) for embedding, code in zip(self.embeddings, codes, strict=True)]
        amounts = torch.stack([torch.log(level / self.unit), torch.log1p(known.sum(1)) / 3], 1)
        return Inputs(
            level=level,
            history=torch.stack([scaled, known, censored], -1),
            known=batch.known.float(),
            simple=simple / level[:, None, None],
            fixed=torch.cat([*embedded, amounts], 1),
        )
