"""A complete family in under 100 lines of code: which colour a visitor picks, given two numbers."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

import models.family
from models.family import Choice, DataRejected, Endpoint, Feature, Features, Gate, LogUniform, Metric, Range, Ratio

NAME, METRIC, GATE, ROUTE_PREFIX = "toy", Metric("accuracy", "max"), Gate(), "/"
SPACE: dict[str, Range] = {"learning_rate": LogUniform(1e-3, 1e-1), "network": Choice(("linear", "hidden"))}
BASELINES: dict[str, dict[str, Any]] = {"majority": {"network": "majority"}}
COLOURS, SPLITS, NUM_SHARDS = ("blue", "green", "red"), ("train", "val", "test"), 4


Schema = models.family.Schema


@dataclass(frozen=True)
class PrepareConfig:
    raw: str
    """CSV file with the columns visitor_id, warmth, brightness and colour."""


@dataclass(frozen=True)
class Config(models.family.TrainConfig):
    network: Literal["linear", "hidden", "majority"] = "linear"
    """Which network: one layer, two layers, or the most frequent colour for everybody."""


class Network(nn.Module):
    """A batch is float32 [B, 3]: warmth, brightness, and the index of the colour or -1."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.register_buffer("prior", torch.zeros(3))
        hidden = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)]
        self.layers = {"linear": nn.Linear(2, 3), "hidden": nn.Sequential(*hidden), "majority": None}[network]

    def logits(self, batch: Tensor) -> Tensor:
        return self.get_buffer("prior") + (0.0 * batch if self.layers is None else self.layers(batch[:, :2]))

    def forward(self, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.logits(batch), batch[:, 2].long())

    def judge(self, batch: Tensor) -> models.family.Judgement:
        picked = self.logits(batch).argmax(1)
        accuracy = Ratio((picked == batch[:, 2]).float(), (batch[:, 2] >= 0).float())
        return models.family.Judgement({"accuracy": accuracy}, {"picked": torch.bincount(picked, minlength=3)})

    def calibration(self, batch: Tensor) -> Tensor | None:
        return None

    def calibrate(self, sums: Tensor) -> None: ...

    def predict(self, batch: Tensor) -> list[int]:
        return self.logits(batch).argmax(1).tolist()


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
        place = int(hashlib.sha256(visitor_id.encode()).hexdigest(), 16)
        part = parts.setdefault((SPLITS[max(0, place % 8 - 5)], place // 8 % NUM_SHARDS), [])
        part.append([float(warmth), float(brightness), COLOURS.index(colour)])
    for (split, shard), numbers in parts.items():
        np.save(out / f"{split}-{shard}.npy", np.array(numbers, dtype=np.float32))
    sizes = {name: sum(len(part) for key, part in parts.items() if key[0] == name) for name in SPLITS}
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    schema = Schema(family=NAME, fingerprint=digest, num_shards=NUM_SHARDS, num_examples=sizes)
    (out / "quarantine").mkdir()
    (out / "schema.json").write_text(schema.model_dump_json())
    (out / "card.json").write_text(json.dumps({"rows": len(rows), "bad": {}, "examples": sizes}))
    (out / "visitors.json").write_text(json.dumps({row[0]: [float(row[1]), float(row[2])] for row in rows}))
    return schema


def dataset(data: Path, split: str, shards: Sequence[int], *, schema: Schema, config: Config, epoch: int) -> Any:
    found = [np.load(path) for shard in shards for path in data.glob(f"{split}-{shard}.npy")]
    return np.concatenate([np.empty((0, 3), np.float32), *found])


def build(config: Config, schema: Schema) -> Network:
    return Network(config.network)


def initialise(network: Network, data: Path, schema: Schema) -> None:
    rows = dataset(data, "train", range(NUM_SHARDS), schema=schema, config=Config(), epoch=0)
    network.get_buffer("prior").copy_(torch.bincount(collate(rows)[:, 2].long(), minlength=3).add(0.5).log())


def collate(examples: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(examples))


def slices(batch: Tensor, schema: Schema) -> Mapping[str, Sequence[str]]:
    return {"warmth": ["warm" if warm else "cold" for warm in batch[:, 0] > 0]}


def summarise(tallies: Mapping[str, Tensor], schema: Schema) -> Mapping[str, float]:
    return {"colours_picked": float((tallies["picked"] > 0).float().mean())}


def golden_request(schema: Schema) -> Request:
    return Request(numbers=(0.5, -0.5))


def encode(request: Request, schema: Schema, features: Features) -> Any:
    if not (numbers := request.numbers or features.get("visitor", {}).get(request.visitor_id or "")):
        raise ValueError(f"visitor_id {request.visitor_id!r} is unknown; send numbers")
    return np.array([*numbers, -1], dtype=np.float32)


def visitor_rows(data: Path) -> Iterable[tuple[str, Any]]:
    yield from json.loads((data / "visitors.json").read_text()).items()


def answer(request: Request, prediction: int, schema: Schema, model_version: str) -> Response:
    return Response(colour=COLOURS[prediction], model_version=model_version)


def asked_visitor(request: Request) -> list[str]:
    return [] if request.visitor_id is None or request.numbers else [request.visitor_id]


FEATURES = (Feature(name="visitor", keys=asked_visitor, rows=visitor_rows),)
ENDPOINTS = (Endpoint("/v1/colours", "Guess a visitor's colour", Request, Response, encode, Network.predict, answer),)
