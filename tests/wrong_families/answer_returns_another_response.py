"""`answer` returns another response than `Response`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from models.family import Endpoint, Family, Schema
from tests.kit import toy
from tests.kit.toy_parts import PARTS


class Guess(BaseModel):
    colour: str


def answer(request: toy.Request, predictions: Sequence[int], schema: Schema, model_version: str) -> Guess:
    return Guess(colour=toy.COLOURS[predictions[0]])


FAMILY = Family(
    **PARTS,
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
)
