"""`dataset` does not take the epoch."""

from __future__ import annotations

from collections.abc import Sequence

from models.family import Dataset, Endpoint, Family, Schema
from models.metrics import Metric
from models.prepared import Prepared
from tests.kit import toy


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: toy.Config
) -> Dataset[toy.Visitor]:
    return toy.dataset(data, split, shards, schema=schema, config=config, epoch=0)


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
    dataset=dataset,  # wrong: arg-type
    collate=toy.collate,
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
