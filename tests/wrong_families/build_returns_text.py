"""`build` returns the name of a network instead of a network."""

from __future__ import annotations

from models.family import Family, Schema
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def build(config: toy.Config, schema: Schema) -> str:
    return config.network


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=build,  # wrong: arg-type
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
)
