"""`build` returns the name of a network instead of a network."""

from __future__ import annotations

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy


def build(config: toy.Config, schema: Schema) -> str:
    return config.network


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
    build=build,  # wrong: arg-type
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
