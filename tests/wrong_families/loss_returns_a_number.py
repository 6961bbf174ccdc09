"""`loss` returns a number, which has no gradient, instead of a tensor."""

from __future__ import annotations

from torch import Tensor

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy


def loss(network: toy.Network, batch: Tensor) -> float:
    return float(network.loss(batch))


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=toy.encode,
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(
    name="wrong",
    metric=Metric("accuracy", "max"),
    PrepareConfig=toy.PrepareConfig,
    Config=toy.Config,
    Schema=Schema,
    prepare=toy.prepare,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=loss,  # wrong: arg-type
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
