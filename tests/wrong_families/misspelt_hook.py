"""A hook is called `update_statistic` instead of `update_statistics`."""

from __future__ import annotations

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from models.prepared import Prepared
from tests.kit import toy


def update_statistics(network: toy.Network, data: Prepared, schema: Schema) -> None:
    toy.initialise(network, data, schema)


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=toy.encode,
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(  # wrong: call-arg
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
    update_statistic=update_statistics,
)
