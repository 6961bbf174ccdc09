"""Shopkeeper under measurement: the project's own training loop and evaluation, as the verbs call them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.kit.measure import overrides
from benchmarks.peers import protocol
from jobs.cli.context import Context, Store
from jobs.evaluation.scoring import load_model, score
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from jobs.training.task import TrainingTask
from jobs.training.validation import validate
from models import FAMILIES, bundle
from models.bundle import config_from_dict
from models.evaluate import Model
from models.family import Dataset, Family
from models.prepared import Prepared

VALIDATED_PER_SHARD = 4
"""Validation examples while the speed of training is measured, of which validation is no part."""


class Watched:
    """The family, noting when the loop asks for which split, and with only the first examples of each if wanted."""

    def __init__(self, family: Family, limits: dict[str, int | None]) -> None:
        self.asked: list[tuple[str, protocol.Started]] = []
        self.initialised: dict[str, float] = {}
        self.family = dataclasses.replace(family, dataset=self._dataset, initialise=self._initialise)
        """What the loop is to train."""
        self._family = family
        self._limits = limits

    def _dataset(
        self, data: Prepared, split: str, shards: Sequence[int], *, schema: Any, config: Any, epoch: int
    ) -> Dataset:
        """The examples of some shards, or the first of them."""
        self.asked.append((split, protocol.start()))
        whole = self._family.dataset(data, split, shards, schema=schema, config=config, epoch=epoch)
        limit = self._limits.get(split)
        return whole if limit is None or len(whole) <= limit else First(whole, limit)

    def _initialise(self, network: Any, data: Prepared, schema: Any) -> None:
        """Count and start as the family does, and note how long that took."""
        started = protocol.start()
        self._family.initialise(network, data, schema)
        self.initialised = started.so_far()

    def last_training(self) -> dict[str, float]:
        """Seconds between the loop's last request for training examples and the validation that followed."""
        place = max(place for place, (split, _) in enumerate(self.asked) if split == "train")
        begun, ended = self.asked[place][1], self.asked[place + 1][1]
        return {"cpu_s": ended.cpu_s - begun.cpu_s, "wall_s": ended.wall_s - begun.wall_s}


@dataclasses.dataclass(frozen=True)
class First:
    """The first examples of a dataset."""

    whole: Any
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.whole[index]


def main() -> None:
    """Do one of the three things; see their functions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("train", "evaluate", "fit"))
    parser.add_argument("--family", default="recommender", choices=FAMILIES)
    parser.add_argument("--data", type=Path, required=True, help="prepared data directory")
    parser.add_argument("--work", type=Path, required=True, help="an empty directory for the run")
    parser.add_argument("--config", nargs="*", default=[], help="name=value")
    parser.add_argument("--rows", type=int, help="train and fit: rows of an epoch; all by default")
    parser.add_argument("--validated", type=int, help="fit: validation examples of a shard; the test split is left out")
    parser.add_argument("--asked", type=int, default=0, help="fit: requests to time on the best model, one by one")
    parser.add_argument("--test-each-epoch", action="store_true", help="fit: test NDCG after each epoch, not timed")
    arguments = parser.parse_args()
    arguments.data = Prepared(arguments.data)
    family = FAMILIES[arguments.family]
    config = config_from_dict(family.Config, overrides(arguments.config))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    {"train": train, "evaluate": evaluate, "fit": fit}[arguments.role](arguments, family, config)


def train(arguments: argparse.Namespace, family: Family, config: Any) -> None:
    """Train one epoch for each request, after one to warm up: targets, processor and wall time of its steps."""
    watched = Watched(family, {"train": arguments.rows, "val": VALIDATED_PER_SHARD})
    targets = num_targets(arguments, family, config)
    requests = protocol.asked()

    def report(numbers: dict[str, float | int]) -> None:
        if numbers["epoch"] == 0:
            return
        measured = {**watched.last_training(), "targets": targets, "steps": numbers["steps"]}
        protocol.say(
            {"versions": protocol.versions("torch", "numpy")}
            if numbers["epoch"] == 1
            else {**measured, "loss": numbers["train_loss"]}
        )
        if next(requests, None) is None:
            sys.exit()

    run_training(
        watched.family,
        config=dataclasses.replace(config, patience=0, epochs=1000),
        data=arguments.data,
        directory=arguments.work / "run",
        worker=WorkerContext(),
        report=report,
    )


def num_targets(arguments: argparse.Namespace, family: Family, config: Any) -> int:
    """Pictures of an epoch, or next events that its rows hold: every event of the training split but a user's first."""
    schema = arguments.data.schema(family.Schema, family.files)
    dataset = family.dataset(arguments.data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    rows = range(min(arguments.rows or len(dataset), len(dataset)))
    if family.name != "recommender":
        return len(rows)
    return sum(int((family.collate([dataset[row]]).targets != 0).sum()) for row in rows)


def evaluate(arguments: argparse.Namespace, family: Family, config: Any) -> None:
    """Rank every item for every example once for each request: as the verb `evaluate`, and as after an epoch."""
    schema = arguments.data.schema(family.Schema, family.files)
    network = family.build(config, schema)
    started = protocol.start()
    family.initialise(network, arguments.data, schema)
    network.eval()
    model = Model(family, config, schema, network)
    task = TrainingTask(family, config, schema, arguments.data, arguments.work, WorkerContext())
    context = Context(store=Store(arguments.work))
    protocol.say({"versions": protocol.versions("torch", "numpy"), "initialise": started.so_far()})
    for _ in protocol.asked():
        started = protocol.start()
        scores = score(context, model, data=arguments.data, split="test")
        whole = {**started.so_far(), "users": scores.num_examples, "metrics": scores.values(family.all_metrics)}
        started = protocol.start()
        validate(task, network)
        protocol.say({**whole, "validate": started.so_far()})


def fit(arguments: argparse.Namespace, family: Family, config: Any) -> None:
    """Train to the end, with a line for each epoch and one for the best model on the test split."""
    directory = arguments.work / "run"
    watched = Watched(family, {"train": arguments.rows, "val": arguments.validated})
    started = protocol.start()
    untimed = {"cpu_s": 0.0, "wall_s": 0.0}

    def report(numbers: dict[str, float | int]) -> None:
        so_far = {name: value - untimed[name] for name, value in started.so_far().items()}
        test = {}
        if arguments.test_each_epoch:
            begun = protocol.start()
            test = tested(checkpoints.path_of(directory, int(numbers["epoch"])), family, arguments)
            for name, value in begun.so_far().items():
                untimed[name] += value
        training = {"training": watched.last_training()} if numbers["epoch"] else {"initialise": watched.initialised}
        protocol.say({**numbers, **so_far, **test, **training, "at": time.time()})

    data: Prepared = arguments.data
    run_training(watched.family, config=config, data=data, directory=directory, worker=WorkerContext(), report=report)
    so_far = {name: value - untimed[name] for name, value in started.so_far().items()}
    reports = checkpoints.read_reports(directory)
    best = {"best_val": reports[-1][f"best_val_{family.metric.name}"], "epochs": len(reports) - 1}
    answer = {"done": True, **best, **so_far, "targets": num_targets(arguments, family, config)}
    answer["versions"] = protocol.versions("torch", "numpy")
    if arguments.validated is None:
        answer |= tested(checkpoints.best_of(directory), family, arguments)
    if arguments.asked:
        answer |= served(checkpoints.best_of(directory), family, arguments)
    protocol.say(answer)


def tested(directory: Path, family: Family, arguments: argparse.Namespace) -> dict[str, float]:
    """Test metrics of a bundle, by the names that the loop gives to those of validation."""
    model = load_model(directory, family)
    scores = score(Context(store=Store(arguments.work)), model, data=arguments.data, split="test")
    return {f"test_{name}": value for name, value in scores.values(family.all_metrics).items()}


def served(directory: Path, family: Family, arguments: argparse.Namespace) -> dict[str, Any]:
    """Size of a bundle, seconds to load it, and the processor time of one request and of one user's ranking."""
    started = protocol.start()
    model = bundle.load(directory, family)
    loaded = started.so_far()
    dataset = family.dataset(arguments.data, "test", [0], schema=model.schema, config=model.config, epoch=0)
    examples = [dataset[place] for place in range(min(len(dataset), arguments.asked))]
    request_ms = []
    with torch.inference_mode():
        for example in examples:
            started = protocol.start()
            family.endpoints[0].predict(model.network, family.collate([example]))
            request_ms.append({name: 1000 * value for name, value in started.so_far().items()})
        started = protocol.start()
        family.evaluate(model.network, family.collate(examples))
        evaluated = started.so_far()
    return {
        "bundle_mb": bundle.size_mb(directory),
        "load": loaded,
        "request_ms": request_ms[1:],
        "evaluated": {name: value / len(examples) for name, value in evaluated.items()},
    }


if __name__ == "__main__":
    main()
