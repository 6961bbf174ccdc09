"""The synthetic catalogue: deterministic, with known faults, and too hard for the linear baseline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models.image import FAMILY
from models.image.config import Config
from models.image.sample import sample as write_sample
from tests.kit.pictures import prepared


def test_the_synthetic_catalogue_is_deterministic_and_has_known_faults(tmp_path: Path) -> None:
    first, second = write_sample(tmp_path / "a"), write_sample(tmp_path / "b")

    assert Path(first.prepare["raw"]).read_bytes() == Path(second.prepare["raw"]).read_bytes()
    data, schema = prepared(tmp_path, Path(first.prepare["raw"]), labels=first.prepare["labels"])
    card = data.card()
    assert card["bad"] == {"truncated": 4}
    assert card["duplicates"] == 6
    assert schema.heads["type"] == ["Bags", "Shirts", "Shoes", "Trousers"]


def test_a_network_learns_what_the_linear_baseline_cannot(tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "raw")
    data, _ = prepared(tmp_path, Path(sample.prepare["raw"]), labels=sample.prepare["labels"])
    config = Config(**{**sample.train, "epochs": 6})
    accuracy = {}
    for name, chosen in (("trained", config), ("linear", dataclasses.replace(config, network="linear"))):
        result = run_training(
            FAMILY,
            config=chosen,
            data=data,
            directory=tmp_path / name,
            worker=WorkerContext(device="cpu"),
            report=lambda report: None,
        )
        accuracy[name] = result.metrics["val_accuracy"]

    assert accuracy["trained"] > 0.9
    assert accuracy["linear"] < 0.8
