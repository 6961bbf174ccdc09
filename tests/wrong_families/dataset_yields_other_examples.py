"""`dataset` yields other examples than `collate` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.family import Family, Schema
from models.prepared import Prepared
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: toy.Config, epoch: int
) -> Sequence[Path]:
    return [path for shard in shards for path in data.path.glob(f"{split}-{shard}.npy")]


FAMILY = Family(
    **PARTS,
    dataset=dataset,
    collate=toy.collate,  # wrong: arg-type
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
)
