"""`answer` returns another response than `Response`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy


class Guess(BaseModel):
    colour: str


def answer(request: toy.Request, predictions: Sequence[int], schema: Schema, model_version: str) -> Guess:
    return Guess(colour=toy.COLOURS[predictions[0]])


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
    evaluate=toy.Network.evaluate,
    endpoints=[
        Endpoint(
            path="/v1/colours",
            summary="Guess a visitor's colour",
            Request=toy.Request,
            Response=toy.Response,
            encode=toy.encode,
            predict=toy.Network.predict,
            answer=answer,  # wrong: arg-type
        )
    ],
    golden_request=toy.golden_request,
)
