"""The products that pictures are compared with: their embeddings, made once for a model and a prepared catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from models import bundle
from models.image.data import Batch, Picture, catalogue, collate, fitted
from models.image.schema import MISSING, Schema
from models.json_files import read_json
from models.prepared import Prepared

INDEX, EMBEDDINGS = "index.json", "index.safetensors"
MAX_NEIGHBOURS = 100
BLOCK = 256


@dataclass(frozen=True)
class Neighbour:
    """A product and how much its most similar picture looks like the one that was asked about."""

    item_id: str
    similarity: float
    """Cosine of the embeddings, at most 1."""


@dataclass(frozen=True)
class Catalogue:
    """N pictures of P products."""

    item_ids: list[str]
    """[P]."""
    item_of: Tensor
    """[N] place of each picture's product in `item_ids`."""
    embeddings: Tensor
    """[N, D], each of length one."""

    def nearest(self, embeddings_BD: Tensor) -> list[list[Neighbour]]:
        """The MAX_NEIGHBOURS most similar products of each picture, most similar first."""
        return [self._nearest(embedding) for embedding in embeddings_BD]

    def _nearest(self, embedding_D: Tensor) -> list[Neighbour]:
        similarity = self.embeddings @ embedding_D
        best = similarity.new_full((len(self.item_ids),), -1.0)
        best.scatter_reduce_(0, self.item_of, similarity, "amax")
        values, places = best.topk(min(MAX_NEIGHBOURS, len(self.item_ids)))
        return [
            Neighbour(self.item_ids[place], min(value, 1.0))
            for place, value in zip(places.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Comparison:
    """What similar pictures were found, among how many products."""

    neighbours: list[Neighbour]
    num_products: int


def write_index(network: Any, data: Prepared, schema: Schema, directory: Path) -> int:
    """Embed every picture of a prepared catalogue that belongs to a product; returns the number of products."""
    names: list[str] = []
    parts: list[Tensor] = []
    unlabelled = np.full(len(schema.heads), MISSING, np.int16)
    for items, pixels in catalogue(data):
        for start in range(0, len(items), BLOCK):
            block = [Picture(fitted(one, schema), unlabelled) for one in pixels[start : start + BLOCK]]
            with torch.inference_mode():
                parts.append(network.embed(collate(block)).half())
        names += items
    item_ids = sorted(set(names))
    place = {item_id: number for number, item_id in enumerate(item_ids)}
    tensors = {
        "embeddings": torch.cat(parts) if parts else torch.zeros(0, 1, dtype=torch.float16),
        "item_of": torch.tensor([place[name] for name in names], dtype=torch.int64),
    }
    bundle.write_directory(directory, {INDEX: {"item_ids": item_ids}}, {EMBEDDINGS: tensors})
    return len(item_ids)


def attach_index(network: Any, directory: Path) -> None:
    """Let a network compare pictures with the products of an index; raises BundleRejected when it is damaged."""
    bundle.verify(directory, required=(INDEX, EMBEDDINGS))
    tensors = load_file(directory / EMBEDDINGS)
    device = next(iter(network.state_dict().values())).device
    network.catalogue = Catalogue(
        item_ids=read_json(directory / INDEX)["item_ids"],
        item_of=tensors["item_of"].to(device),
        embeddings=torch.nn.functional.normalize(tensors["embeddings"].float(), dim=1).to(device),
    )


def compare(network: Any, batch: Batch) -> list[Comparison]:
    """The products that look most like each picture; none where the network was given no index."""
    known: Catalogue | None = network.catalogue
    if known is None or not known.item_ids:
        return [Comparison([], 0) for _ in batch.labels]
    return [Comparison(found, len(known.item_ids)) for found in known.nearest(network.embed(batch))]
