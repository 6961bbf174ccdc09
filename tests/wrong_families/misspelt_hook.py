"""A hook is called `update_statistic` instead of `update_statistics`."""

from __future__ import annotations

from models.family import Family, Schema
from models.prepared import Prepared
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def update_statistics(network: toy.Network, data: Prepared, schema: Schema) -> None:
    toy.initialise(network, data, schema)


FAMILY = Family(  # wrong: call-arg
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
    update_statistic=update_statistics,
)
