"""`collate` returns None instead of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from models.family import Family
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def collate(examples: Sequence[toy.Visitor]) -> None:
    toy.collate(examples)


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=collate,  # wrong: arg-type
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
)
