"""A batch is a list, which cannot be moved to a device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.family import Endpoint, Family
from models.metrics import BatchMetrics
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def collate(examples: Sequence[toy.Visitor]) -> list[toy.Visitor]:
    return list(examples)


def loss(network: toy.Network, batch: list[toy.Visitor]) -> Tensor:
    return network.loss(toy.collate(batch))


def evaluate(network: toy.Network, batch: list[toy.Visitor]) -> BatchMetrics:
    return network.evaluate(toy.collate(batch))


def predict(network: toy.Network, batch: list[toy.Visitor]) -> list[int]:
    return network.predict(toy.collate(batch))


ENDPOINT = Endpoint(  # wrong: type-var
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=toy.encode,
    predict=predict,
    answer=toy.answer,
)
FAMILY = Family(  # wrong: type-var
    **PARTS,
    dataset=toy.dataset,
    collate=collate,
    build=toy.Network,
    loss=loss,
    evaluate=evaluate,
    endpoints=[ENDPOINT],
)
