"""`answer` takes other predictions than `predict` gives."""

from __future__ import annotations

from collections.abc import Sequence

from models.family import Endpoint, Family, Schema
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def answer(request: toy.Request, predictions: Sequence[str], schema: Schema, model_version: str) -> toy.Response:
    return toy.Response(colour=predictions[0], model_version=model_version)


FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[
        Endpoint(  # wrong: misc
            path="/v1/colours",
            summary="Guess a visitor's colour",
            Request=toy.Request,
            Response=toy.Response,
            encode=toy.encode,
            predict=toy.Network.predict,
            answer=answer,
        )
    ],
)
