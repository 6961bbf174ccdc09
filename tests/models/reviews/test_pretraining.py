"""Pretraining on texts without a class: which texts, what is learned, and that no restart or worker changes it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.config import Config
from models.reviews.data import collate, dataset
from models.reviews.networks.build import build
from models.reviews.networks.deep import Deep
from models.reviews.sample import made_up
from models.reviews.schema import WITHOUT_CLASS, Schema
from tests.kit.gloo import run_workers
from tests.models.reviews.kit import prepared, written

SMALL: dict[str, Any] = {"network": "deep", "dim": 16, "num_buckets": 1 << 12, "batch_size": 32, "patience": 1}
NUM_LABELLED, NUM_UNLABELLED = 160, 200


class Interruption(Exception):
    """Simulates a process that dies in the middle of a run."""


def columns() -> dict[str, list[Any]]:
    """Reviews with a class, those without, and one text that is in both groups for each class."""
    draw = np.random.default_rng(0)
    labels = [number % 2 for number in range(NUM_LABELLED)]
    texts = [made_up(bool(label), "quality", draw) + f" {number}" for number, label in enumerate(labels)]
    others = [made_up(bool(draw.random() < 0.5), "price", draw) + f" no {number}" for number in range(NUM_UNLABELLED)]
    count = NUM_LABELLED + NUM_UNLABELLED
    return {
        "text": [*texts, *others, *texts, others[0]],
        "label": [*map(str, labels), *[None] * (NUM_UNLABELLED + NUM_LABELLED + 1)],
        "category": ["old" if number % 4 else "new" for number in range(count + NUM_LABELLED + 1)],
        "timestamp": [1_600_000_000 + 1000 * (number % count) for number in range(count + NUM_LABELLED + 1)],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_in(tmp_path_factory.mktemp("shop"))


def prepare_in(directory: Path, **settings: Any) -> Prepared:
    return prepared(directory / "data", raw=str(written(directory / "raw.parquet", columns())), **settings)


def rows_of(data: Prepared) -> list[dict[str, Any]]:
    return [row for shard in data.shards() for row in pq.read_table(shard / "reviews.parquet").to_pylist()]


def train(data: Prepared, directory: Path, **more: Any) -> list[dict[str, float]]:
    """Run the loop with two epochs of pretraining, and return its reports without times."""
    stop_after, worker = more.pop("stop_after", None), more.pop("worker", WorkerContext())
    reports: list[dict[str, float]] = []

    def report(found: dict[str, float | int]) -> None:
        reports.append({name: value for name, value in found.items() if name not in ("seconds", "examples_per_s")})
        if found["epoch"] == stop_after:
            raise Interruption

    config = Config(**{**SMALL, "pretrain_epochs": 2, "epochs": 4, **more})
    with suppress(Interruption):
        run_training(FAMILY, config=config, data=data, directory=directory, worker=worker, report=report)
    return reports


def test_texts_without_a_class_are_kept_once_and_none_is_held_out(data: Prepared) -> None:
    rows = rows_of(data)
    held = {row["text"] for row in rows if row["split"] in ("val", "test")}
    unlabelled = [row["text"] for row in rows if row["split"] == WITHOUT_CLASS]

    assert len(unlabelled) == len(set(unlabelled)) == NUM_UNLABELLED
    assert held and not held & set(unlabelled)
    assert data.schema(Schema).num_unlabelled == data.card()["pretraining_texts"] == NUM_UNLABELLED
    assert sum(data.schema(Schema).num_examples.values()) == NUM_LABELLED
    assert any("--pretrain-epochs" in note for note in data.card()["notes"])


@pytest.mark.parametrize(
    ("settings", "is_held"),
    [
        ({"hold_out": "category=new"}, lambda row, _: row["category"] == "new"),
        ({"split": "time"}, lambda row, newest: row["time_us"] > newest),
    ],
    ids=["a group", "the newest"],
)
def test_texts_of_what_is_held_out_are_not_pretrained_on(tmp_path: Path, settings: Any, is_held: Any) -> None:
    rows = rows_of(prepare_in(tmp_path, **settings))

    newest = max(row["time_us"] for row in rows if row["split"] == "train")
    unlabelled = [row for row in rows if row["split"] == WITHOUT_CLASS]
    assert bool(unlabelled) == ("hold_out" in settings)
    assert not any(is_held(row, newest) for row in unlabelled)


def test_only_the_epochs_that_pretrain_read_texts_without_a_class(data: Prepared) -> None:
    schema, config = data.schema(Schema), Config(**SMALL, pretrain_epochs=2)

    def count(split: str, epoch: int, config: Config = config) -> int:
        return len(dataset(data, split, range(schema.num_shards), schema=schema, config=config, epoch=epoch))

    trained, held = schema.num_examples["train"], schema.num_examples["val"]
    assert [count("train", epoch) for epoch in (0, 1, 2, 3)] == [
        trained,
        trained + NUM_UNLABELLED,
        trained + NUM_UNLABELLED,
        trained,
    ]
    assert count("val", 1) == held and count("train", 1, replace(config, network="wide")) == trained


def test_data_without_such_texts_pretrain_on_those_of_training(tmp_path: Path) -> None:
    labelled = {name: values[:NUM_LABELLED] for name, values in columns().items()}
    data = prepared(tmp_path / "data", raw=str(written(tmp_path / "raw.parquet", labelled)))

    reports = train(data, tmp_path / "run", pretrain_epochs=1, epochs=2)

    assert data.schema(Schema).num_unlabelled == 0 and len(reports) == 3


def test_a_schema_of_an_older_version_has_no_such_texts(data: Prepared) -> None:
    fields = data.schema(Schema).model_dump()
    del fields["num_unlabelled"]

    assert Schema(**fields).num_unlabelled == 0


def test_pretraining_learns_which_characters_were_replaced(data: Prepared) -> None:
    schema, config = data.schema(Schema), Config(**{**SMALL, "dropout": 0.0}, pretrain_epochs=1)
    torch.manual_seed(0)
    network = build(config, schema)
    network.fit(data, schema)
    texts = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    batch = collate([texts[row] for row in range(64)])
    optimizer = torch.optim.Adagrad(network.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = FAMILY.loss(network, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))

    assert not len(batch.grams)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert isinstance(network.deep, Deep) and not bool(network.deep.head.weight.any())


def test_each_phase_has_its_own_schedule_and_early_stopping_counts_from_the_end_of_pretraining(
    data: Prepared, tmp_path: Path
) -> None:
    reports = train(data, tmp_path / "run", pretrain_epochs=3, epochs=5, learning_rate=0.001)

    rates = [report["learning_rate"] for report in reports]
    assert len(reports) >= 5  # three epochs in a row without a gain did not stop it
    assert rates[3] < 0.1 * rates[1] and rates[4] > 0.4 * 0.001
    assert reports[1]["steps"] > reports[4]["steps"]


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_in_every_phase(
    data: Prepared, tmp_path: Path, stop_after: int
) -> None:
    whole = train(data, tmp_path / "whole")

    before = train(data, tmp_path / "halves", stop_after=stop_after)
    after = train(data, tmp_path / "halves")

    assert before == whole[: stop_after + 1] and after == whole[stop_after:]


def work(rank: int, world_size: int, directory: Path) -> None:
    """The training of one of several workers."""
    worker = WorkerContext(rank=rank, world_size=world_size)
    train(Prepared(directory / "data"), directory / "run", worker=worker)


def test_two_workers_take_both_phases(tmp_path: Path) -> None:
    prepare_in(tmp_path)

    run_workers(work, 2, tmp_path)

    reports = checkpoints.read_reports(tmp_path / "run")
    assert len(reports) >= 4 and all(np.isfinite(report["val_accuracy"]) for report in reports)
    assert reports[1]["steps"] > reports[3]["steps"]


def test_pretraining_has_to_leave_an_epoch_to_learn_sentiment(data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--pretrain-epochs 4.*--epochs 4.*raise --epochs"):
        train(data, tmp_path / "run", pretrain_epochs=4)

    assert FAMILY.resolve(Config(network="wide", pretrain_epochs=5), data.schema(Schema)).pretrain_epochs == 5
