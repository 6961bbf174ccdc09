"""A stream's `encode` takes another state than its `open` makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.family import Endpoint, Family, Schema, Stream
from models.metrics import Metric
from tests.kit import toy


def start(schema: Schema, model_version: str) -> list[float]:
    return []


def encode(state: str, message: str | bytes, schema: Schema) -> list[toy.Visitor]:
    return [np.array([float(state), float(message), -1], dtype=np.float32)]


def answer(state: list[float], predictions: Sequence[int], schema: Schema) -> list[bytes]:
    return [toy.COLOURS[each].encode() for each in predictions]


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
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
    streams=[
        Stream(  # wrong: misc
            path="/v1/s",
            summary="Guess as numbers come",
            open=start,
            encode=encode,
            predict=toy.Network.predict,
            answer=answer,
        )
    ],
)
