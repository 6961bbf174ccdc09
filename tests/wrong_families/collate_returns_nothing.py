"""`collate` returns None instead of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy


def collate(examples: Sequence[toy.Visitor]) -> None:
    toy.collate(examples)


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
    collate=collate,  # wrong: arg-type
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
