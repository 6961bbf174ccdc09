"""A stream's `encode` takes another state than its `open` makes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.family import Family, Schema, Stream
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def start(schema: Schema, model_version: str) -> list[float]:
    return []


def encode(state: str, message: str | bytes, schema: Schema) -> list[toy.Visitor]:
    return [np.array([float(state), float(message), -1], dtype=np.float32)]


def answer(state: list[float], predictions: Sequence[int], schema: Schema) -> list[bytes]:
    return [toy.COLOURS[each].encode() for each in predictions]


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[toy.ENDPOINT],
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
