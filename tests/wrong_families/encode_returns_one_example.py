"""`encode` returns an example instead of a list of them."""

from __future__ import annotations

from models.family import Endpoint, Family, Features, Schema
from tests.kit import toy
from tests.kit.toy_parts import PARTS


def encode(request: toy.Request, schema: Schema, features: Features) -> toy.Visitor:
    return toy.encode(request, schema, features)[0]


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=encode,  # wrong: arg-type
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(
    **PARTS,
    dataset=toy.dataset,
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
)
