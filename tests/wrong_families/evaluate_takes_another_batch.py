"""`evaluate` takes another batch than `collate` makes."""

from __future__ import annotations

from torch.nn.utils.rnn import PackedSequence

from models.family import Endpoint, Family, Schema
from models.metrics import BatchMetrics, Metric
from tests.kit import toy


def evaluate(network: toy.Network, batch: PackedSequence) -> BatchMetrics:
    return network.evaluate(batch.data)


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
    loss=toy.Network.loss,
    evaluate=evaluate,  # wrong: arg-type
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
