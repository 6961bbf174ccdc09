"""A baseline is a dict of settings instead of a Config."""

from __future__ import annotations

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from tests.kit import toy

ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Guess a visitor's colour",
    Request=toy.Request,
    Response=toy.Response,
    encode=toy.encode,
    predict=toy.Network.predict,
    answer=toy.answer,
)
FAMILY = Family(  # wrong: misc
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
    baselines={"majority": {"network": "majority"}},
)
