"""The calibration chooses for another network than `build` makes."""

from __future__ import annotations

from torch import Tensor, nn

from models.family import Calibration, Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy


def sums(network: nn.Linear, batch: Tensor) -> Tensor:
    return batch.sum(0)


def choose(network: nn.Linear, sums: Tensor) -> None:
    network.bias.data.copy_(sums)


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=toy.encode,
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(  # wrong: misc
    name="wrong",
    metric=Metric("accuracy", "max"),
    PrepareConfig=toy.PrepareConfig,
    Config=toy.Config,
    Schema=Schema,
    prepare=toy.prepare,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
    calibration=Calibration(sums, choose),
)
