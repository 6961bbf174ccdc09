"""`encode` returns other examples than `collate` takes."""

from __future__ import annotations

from models.family import Endpoint, Family, Features, Schema
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def encode(request: toy.Request, schema: Schema, features: Features) -> list[tuple[float, float]]:
    return [request.numbers or (0.0, 0.0)]


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=encode,
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,  # wrong: arg-type
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
)
