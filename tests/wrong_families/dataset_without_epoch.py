"""`dataset` does not take the epoch."""

from __future__ import annotations

from collections.abc import Sequence

from models.family import Dataset, Family, Schema
from models.prepared import Prepared
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: toy.Config
) -> Dataset[toy.Visitor]:
    return toy.dataset(data, split, shards, schema=schema, config=config, epoch=0)


FAMILY = Family(
    **PARTS,
    dataset=dataset,  # wrong: arg-type
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
)
