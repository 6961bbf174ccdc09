"""`dataset` yields other examples than `collate` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.family import Endpoint, Family, Schema
from models.metrics import Metric
from models.prepared import Prepared
from tests.kit import toy


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: toy.Config, epoch: int
) -> Sequence[Path]:
    return [path for shard in shards for path in data.path.glob(f"{split}-{shard}.npy")]


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
    dataset=dataset,
    collate=toy.collate,  # wrong: arg-type
    build=toy.Network,
    loss=toy.Network.loss,
    evaluate=toy.Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=toy.golden_request,
)
