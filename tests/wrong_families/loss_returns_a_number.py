"""`loss` returns a number, which has no gradient, instead of a tensor."""

from __future__ import annotations

from torch import Tensor

from models.family import Family
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def loss(network: toy.Network, batch: Tensor) -> float:
    return float(network.loss(batch))


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=loss,  # wrong: arg-type
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
)
