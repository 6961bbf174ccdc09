"""`evaluate` takes another batch than `collate` makes."""

from __future__ import annotations

from torch.nn.utils.rnn import PackedSequence

from models.family import Family
from models.metrics import BatchMetrics
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def evaluate(network: toy.Network, batch: PackedSequence) -> BatchMetrics:
    return network.evaluate(batch.data)


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=evaluate,  # wrong: arg-type
    endpoints=[toy.ENDPOINT],
)
