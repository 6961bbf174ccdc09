"""A complete family in under 130 lines of code: predicts which colour a visitor picks from two numbers."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from models.config import Choice, LogUniform, TrainConfig
from models.errors import DataRejected
from models.family import Dataset, Endpoint, Family, Feature, Features, Schema
from models.metrics import BatchMetrics, Metric, Ratio
from models.prepared import Prepared

COLOURS, SPLITS, NUM_SHARDS = ("blue", "green", "red"), ("train", "val", "test"), 4
Visitor = NDArray[np.float32]


@dataclass(frozen=True)
class PrepareConfig:
    raw: str
    """CSV file with the columns visitor_id, warmth, brightness and colour."""


@dataclass(frozen=True)
class Config(TrainConfig):
    network: Literal["linear", "hidden", "majority"] = "linear"
    """Network: one layer, two layers, or always the most frequent colour."""


class Network(nn.Module):
    """A batch is float32 [B, 3]: warmth, brightness, and the index of the colour or -1."""

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.register_buffer("prior", torch.zeros(3))
        hidden = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)]
        self.layers = {"linear": nn.Linear(2, 3), "hidden": nn.Sequential(*hidden), "majority": None}[config.network]

    def logits(self, batch: Tensor) -> Tensor:
        return self.get_buffer("prior") + (0.0 * batch if self.layers is None else self.layers(batch[:, :2]))

    def loss(self, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.logits(batch), batch[:, 2].long())

    def evaluate(self, batch: Tensor) -> BatchMetrics:
        picked = self.logits(batch).argmax(1)
        accuracy = Ratio((picked == batch[:, 2]).float(), (batch[:, 2] >= 0).float())
        return BatchMetrics({"accuracy": accuracy}, {"picked": torch.bincount(picked, minlength=3)})

    def predict(self, batch: Tensor) -> list[int]:
        return [int(colour) for colour in self.logits(batch).argmax(1)]


class Request(BaseModel, extra="forbid"):
    visitor_id: str | None = None
    numbers: tuple[float, float] | None = None


class Response(BaseModel):
    colour: str
    model_version: str


def prepare(config: PrepareConfig, out: Path, executor: Executor) -> Schema:
    rows = sorted(tuple(row.values()) for row in csv.DictReader(Path(config.raw).read_text().splitlines()))
    if not rows or any(len(row) != 4 or row[3] not in COLOURS for row in rows):
        raise DataRejected(f"{config.raw} has rows without one of the colours {', '.join(COLOURS)}; correct them")
    parts: dict[tuple[str, int], list[list[float]]] = {}
    for visitor_id, warmth, brightness, colour in rows:
        bucket = int(hashlib.sha256(visitor_id.encode()).hexdigest(), 16)
        part = parts.setdefault((SPLITS[max(0, bucket % 8 - 5)], bucket // 8 % NUM_SHARDS), [])
        part.append([float(warmth), float(brightness), COLOURS.index(colour)])
    for (split, shard), numbers in parts.items():
        np.save(out / f"{split}-{shard}.npy", np.array(numbers, dtype=np.float32))
    sizes = {name: sum(len(part) for key, part in parts.items() if key[0] == name) for name in SPLITS}
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    schema = Schema(family="toy", fingerprint=digest, num_shards=NUM_SHARDS, num_examples=sizes)
    (out / "quarantine").mkdir()
    (out / "schema.json").write_text(schema.model_dump_json())
    (out / "card.json").write_text(json.dumps({"rows": len(rows), "bad": {}, "examples": sizes}))
    (out / "visitors.json").write_text(json.dumps({row[0]: [float(row[1]), float(row[2])] for row in rows}))
    return schema


def dataset(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int
) -> Dataset[Visitor]:
    found = [np.load(path) for shard in shards for path in data.path.glob(f"{split}-{shard}.npy")]
    return [*np.concatenate([np.empty((0, 3), np.float32), *found])]


def initialise(network: Network, data: Prepared, schema: Schema) -> None:
    rows = dataset(data, "train", range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
    colours = collate([rows[row] for row in range(len(rows))])[:, 2].long()
    network.get_buffer("prior").copy_(torch.bincount(colours, minlength=3).add(0.5).log())


def collate(examples: Sequence[Visitor]) -> Tensor:
    return torch.from_numpy(np.stack(examples))


def slices(batch: Tensor, schema: Schema) -> Mapping[str, Sequence[str]]:
    return {"warmth": ["warm" if warm else "cold" for warm in batch[:, 0] > 0]}


def summarise(accumulators: Mapping[str, Tensor], schema: Schema) -> Mapping[str, float]:
    return {"colours_picked": float((accumulators["picked"] > 0).float().mean())}


def golden_request(schema: Schema) -> Request:
    return Request(numbers=(0.5, -0.5))


def encode(request: Request, schema: Schema, features: Features) -> list[Visitor]:
    if not (numbers := request.numbers or features.get("visitor", {}).get(request.visitor_id or "")):
        raise ValueError(f"visitor_id {request.visitor_id!r} is unknown; send numbers")
    return [np.array([*numbers, -1], dtype=np.float32)]


def answer(request: Request, predictions: Sequence[int], schema: Schema, model_version: str) -> Response:
    return Response(colour=COLOURS[predictions[0]], model_version=model_version)


def asked_visitor(request: Request) -> list[str]:
    return [] if request.visitor_id is None or request.numbers else [request.visitor_id]


def visitor_rows(data: Prepared) -> Iterable[tuple[str, list[float]]]:
    yield from json.loads((data.path / "visitors.json").read_text()).items()


ENDPOINT = Endpoint(
    path="/v1/colours",
    summary="Predict a visitor's colour",
    Request=Request,
    Response=Response,
    encode=encode,
    predict=Network.predict,
    answer=answer,
)
FAMILY = Family(
    name="toy",
    metric=Metric("accuracy", "max", "Accuracy", "Fraction of visitors whose colour is predicted correctly."),
    PrepareConfig=PrepareConfig,
    Config=Config,
    Schema=Schema,
    prepare=prepare,
    dataset=dataset,
    collate=collate,
    build=Network,
    loss=Network.loss,
    evaluate=Network.evaluate,
    endpoints=[ENDPOINT],
    golden_request=golden_request,
    initialise=initialise,
    slices=slices,
    summarise=summarise,
    features=[Feature(name="visitor", keys=asked_visitor, rows=visitor_rows, is_personal=True)],
    space={"learning_rate": LogUniform(1e-3, 1e-1), "network": Choice(("linear", "hidden"))},
    baselines={"majority": Config(network="majority")},
)
