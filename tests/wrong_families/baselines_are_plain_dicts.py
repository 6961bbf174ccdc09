"""A baseline is a dict of settings instead of a Config."""

from __future__ import annotations

from models.family import Family
from tests.kit import toy
from tests.kit.toy_parts import PARTS

FAMILY = Family(  # wrong: misc
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
    baselines={"majority": {"network": "majority"}},
)
