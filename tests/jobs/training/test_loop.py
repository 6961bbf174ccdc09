"""The training loop on the toy family: reproducible across interruptions and numbers of workers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, TrainingDiverged, learning_rate, run_training
from jobs.training.optimizer import make_optimizer
from jobs.training.task import TrainingTask
from jobs.training.validation import validate
from models import bundle
from models.family import Family
from models.golden import check, golden
from models.prepared import Prepared
from tests.kit import toy as toy_module
from tests.kit.gloo import run_workers
from tests.kit.register import TOY, register

TIMES = ("seconds", "examples_per_s")


class Interruption(Exception):
    """Simulates a process that dies in the middle of a run."""


def train(
    family: Family,
    data: Prepared,
    directory: Path,
    *,
    worker: WorkerContext | None = None,
    stop_after: int | None = None,
    **fields: Any,
) -> tuple[list[dict[str, float]], Result | None]:
    """Run the loop and return its reports without times; `stop_after` interrupts it at the report of an epoch."""
    reports: list[dict[str, float]] = []

    def report(numbers: dict[str, float | int]) -> None:
        reports.append({name: value for name, value in numbers.items() if name not in TIMES})
        if stop_after is not None and numbers["epoch"] == stop_after:
            raise Interruption

    config = toy_module.Config(**{"epochs": 4, "network": "hidden", **fields})
    try:
        result = run_training(
            family, config=config, data=data, directory=directory, worker=worker or WorkerContext(), report=report
        )
    except Interruption:
        return reports, None
    return reports, result


def with_loss(change: Callable[[Any, Tensor], Tensor]) -> Any:
    """The toy family with its loss passed through `change(network, loss)`."""

    class Changed(toy_module.Network):
        calls = 0

        def loss(self, batch: Tensor) -> Tensor:
            self.calls += 1
            return change(self, super().loss(batch))

    return dataclasses.replace(TOY, build=Changed, loss=Changed.loss)


def test_training_is_reproducible_by_seed(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    first, _ = train(toy, toy_data, tmp_path / "a")
    second, _ = train(toy, toy_data, tmp_path / "b")
    other, _ = train(toy, toy_data, tmp_path / "c", seed=1)

    assert first == second
    assert first[1]["train_loss"] != other[1]["train_loss"]


def test_training_improves_on_the_initial_model(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(toy, toy_data, tmp_path / "run", learning_rate=0.03, epochs=6)

    assert result is not None
    assert [report["epoch"] for report in reports] == [0, 1, 2, 3, 4, 5, 6]
    assert result.metrics["val_accuracy"] > 0.75 > reports[0]["val_accuracy"]
    assert result.metrics["val_accuracy"] == reports[-1]["best_val_accuracy"]


def test_every_report_contains_plain_finite_numbers(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    reports, _ = train(toy, toy_data, tmp_path / "run")

    assert all(type(value) in (int, float) and math.isfinite(value) for report in reports for value in report.values())


@pytest.mark.parametrize("stop_after", [0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    toy: Family, toy_data: Prepared, tmp_path: Path, stop_after: int
) -> None:
    whole, _ = train(toy, toy_data, tmp_path / "whole")

    before, _ = train(toy, toy_data, tmp_path / "halves", stop_after=stop_after)
    after, _ = train(toy, toy_data, tmp_path / "halves")

    assert before == whole[: stop_after + 1]
    assert after == whole[stop_after:]
    assert weights(tmp_path / "whole") == weights(tmp_path / "halves")


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "state lost", "manifest flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    toy: Family, toy_data: Prepared, tmp_path: Path, damage: str
) -> None:
    whole, _ = train(toy, toy_data, tmp_path / "whole")
    train(toy, toy_data, tmp_path / "run", stop_after=2)
    damage_checkpoint(checkpoints.path_of(tmp_path / "run", 2), damage)

    after, _ = train(toy, toy_data, tmp_path / "run")

    assert after == whole[1:]
    assert weights(tmp_path / "whole") == weights(tmp_path / "run")


def test_a_run_without_an_intact_checkpoint_starts_over(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    whole, _ = train(toy, toy_data, tmp_path / "run", stop_after=1)
    for epoch in (0, 1):
        damage_checkpoint(checkpoints.path_of(tmp_path / "run", epoch), "truncated")

    again, _ = train(toy, toy_data, tmp_path / "run", stop_after=1)

    assert again == whole


def test_a_damaged_best_bundle_is_restored_from_its_checkpoint(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    train(toy, toy_data, tmp_path / "run")
    best = weights(tmp_path / "run")
    damage_checkpoint(tmp_path / "run" / "best", "bit flipped")

    train(toy, toy_data, tmp_path / "run")

    assert weights(tmp_path / "run") == best


def test_checkpoints_of_another_config_are_not_resumed(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    train(toy, toy_data, tmp_path / "run", stop_after=1)

    with pytest.raises(ValueError, match="another configuration"):
        train(toy, toy_data, tmp_path / "run", learning_rate=0.5)


def test_of_the_hidden_entries_only_incomplete_checkpoints_are_deleted(
    toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    for name in (".epoch_0001.0a1b2c3d", ".epoch_0001.backup"):
        (folder / name).mkdir(parents=True)

    train(toy, toy_data, tmp_path / "run", epochs=1)

    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} == {".epoch_0001.backup"}


def test_only_the_newest_checkpoints_and_the_best_are_kept(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    _, result = train(toy, toy_data, tmp_path / "run", epochs=8, learning_rate=300.0, patience=0)

    assert result is not None
    assert result.best_epoch < 6, "the learning rate is too low for the score to get worse"
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [f"epoch_{epoch:04d}" for epoch in (result.best_epoch, 6, 7, 8)]


def test_training_stops_early_when_patience_runs_out(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(toy, toy_data, tmp_path / "run", epochs=8, learning_rate=300.0, patience=2)
    again, _ = train(toy, toy_data, tmp_path / "run", epochs=8, learning_rate=300.0, patience=2)

    assert result is not None
    assert result.epochs == result.best_epoch + 2 < 8
    assert again == reports[-1:]


def test_the_last_of_equal_epochs_is_best_but_not_a_gain(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(toy, toy_data, tmp_path / "run", epochs=8, learning_rate=1e-9, patience=2)

    assert result is not None
    assert len({report["val_accuracy"] for report in reports}) == 1
    assert (result.epochs, result.best_epoch) == (2, 2)


def test_a_network_without_parameters_reports_once(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(toy, toy_data, tmp_path / "run", network="majority")

    assert [report["epoch"] for report in reports] == [0]
    assert result is not None
    assert bundle.load(result.best, TOY).config.network == "majority"


def test_a_loss_that_is_not_finite_once_halves_the_learning_rate(toy_data: Prepared, tmp_path: Path) -> None:
    broken = with_loss(lambda network, loss: loss * math.nan if network.calls == 12 else loss)
    finite, _ = train(TOY, toy_data, tmp_path / "finite")

    reports, _ = train(broken, toy_data, tmp_path / "run")

    assert [report["epoch"] for report in reports] == [0, 1, 2, 3, 4]
    assert reports[:2] == finite[:2]
    rates = [(report["learning_rate"], other["learning_rate"]) for report, other in zip(reports, finite, strict=True)]
    assert [rate / other for rate, other in rates[2:]] == [0.5] * 3
    assert checkpoints.read_progress(tmp_path / "run", 4).rate_scale == 0.5


def test_gradients_that_are_not_finite_count_as_divergence(toy_data: Prepared, tmp_path: Path) -> None:
    # The square root at zero has a finite value and an infinite gradient.
    broken = with_loss(lambda network, loss: loss + (loss - loss).sqrt() if network.calls == 3 else loss)

    train(broken, toy_data, tmp_path / "run", epochs=1)

    assert checkpoints.read_progress(tmp_path / "run", 1).rate_scale == 0.5


def test_a_loss_that_stays_not_finite_fails_after_two_halvings_and_is_never_best(
    toy_data: Prepared, tmp_path: Path
) -> None:
    broken = with_loss(lambda network, loss: loss * math.nan if network.calls > 12 else loss)

    with pytest.raises(TrainingDiverged, match=r"epoch 2.*two halvings.*--learning-rate"):
        train(broken, toy_data, tmp_path / "run")

    assert checkpoints.newest(tmp_path / "run") == 1
    assert all(
        tensor.isfinite().all() for tensor in bundle.load(tmp_path / "run" / "best", TOY).network.state_dict().values()
    )


def test_the_best_bundle_loads_and_returns_its_golden_answer(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    _, result = train(toy, toy_data, tmp_path / "run", epochs=1)

    assert result is not None
    loaded = bundle.load(result.best, TOY)
    check(toy, loaded.network, loaded.schema, loaded.golden)
    assert loaded.golden["response"].keys() == {"colour"}, "the model's version is not part of the answer"
    assert not (result.best / checkpoints.OPTIMIZER).exists()


def test_a_changed_model_fails_its_golden_check(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    _, result = train(toy, toy_data, tmp_path / "run", epochs=1)
    assert result is not None
    loaded = bundle.load(result.best, TOY)
    other = next(colour for colour in toy_module.COLOURS if colour != loaded.golden["response"]["colour"])

    with pytest.raises(ValueError, match=r"response\.colour"):
        check(toy, loaded.network, loaded.schema, {**loaded.golden, "response": {"colour": other}})


def test_golden_keeps_the_training_mode_of_the_network(toy: Family, toy_data: Prepared) -> None:
    schema = toy_data.schema(toy.Schema)
    network = toy.build(toy_module.Config(), schema).train()

    golden(toy, network, schema)

    assert network.training


def test_the_learning_rate_warms_up_then_decays_to_a_hundredth() -> None:
    config = toy_module.Config(learning_rate=1.0, warmup_fraction=0.1)

    rates = [learning_rate(config, step, 100) for step in range(101)]

    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.01)


def test_weight_decay_applies_to_matrices_but_not_to_vectors_and_embeddings() -> None:
    network = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))

    groups = make_optimizer(TOY, network, toy_module.Config(weight_decay=0.5)).param_groups

    assert [[len(group["params"]), group["weight_decay"]] for group in groups] == [[1, 0.5], [2, 0.0]]


@pytest.mark.parametrize(("fields", "message"), [({"batch_size": 1}, "batch_size 1"), ({}, "4 shards")])
def test_more_workers_than_shards_or_batch_size_are_rejected(
    toy: Family, toy_data: Prepared, tmp_path: Path, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(toy, toy_data, tmp_path / "run", worker=WorkerContext(rank=0, world_size=5), **fields)


def test_validation_is_identical_on_one_two_and_three_workers(toy: Family, toy_data: Prepared, tmp_path: Path) -> None:
    train(toy, toy_data, tmp_path / "run", epochs=1)
    single = validate_best(toy_data, tmp_path / "run", WorkerContext())

    for world_size in (2, 3):
        run_workers(partial(work, toy_data), world_size, tmp_path)

        found = [json.loads((tmp_path / f"{rank}-of-{world_size}.json").read_text()) for rank in range(world_size)]
        assert [one["validated"] for one in found] == [single] * world_size
        assert all(one["reports"] == found[0]["reports"] for one in found)
        assert [report["epoch"] for report in found[0]["reports"]] == [0, 1, 2]
        assert found[0]["reports"][-1]["best_val_accuracy"] > 0.5


def work(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """One of `world_size` workers, which validate the checkpoint of `run` and then train together."""
    register()
    worker = WorkerContext(rank=rank, world_size=world_size)
    validated = validate_best(data, directory / "run", worker)
    reports, _ = train(TOY, data, directory / f"run-{world_size}", worker=worker, epochs=2, learning_rate=0.03)
    found = {"validated": validated, "reports": reports}
    (directory / f"{rank}-of-{world_size}.json").write_text(json.dumps(found))


def validate_best(data: Prepared, directory: Path, worker: WorkerContext) -> dict[str, float]:
    """Validation metrics of a run's best bundle."""
    loaded = bundle.load(directory / "best", TOY)
    task = TrainingTask(TOY, loaded.config, loaded.schema, data, directory, worker)
    return validate(task, loaded.network)


def weights(directory: Path) -> bytes:
    """The weights of a run's best bundle."""
    return (directory / "best" / checkpoints.MODEL).read_bytes()


def damage_checkpoint(directory: Path, damage: str) -> None:
    """Damage one file of a checkpoint."""
    file = directory / ("MANIFEST.json" if damage == "manifest flipped" else checkpoints.MODEL)
    content = bytearray(file.read_bytes())
    match damage:
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
        case "state lost":
            (directory / checkpoints.STATE).unlink()
        case _:
            content[len(content) // 2] ^= 0x10
            file.write_bytes(content)


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_log_has_epoch_0_and_warns_if_it_stays_the_best(
    toy: Family, toy_data: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_kept: bool
) -> None:
    family = with_loss(lambda _, loss: -loss if is_kept else loss)

    with caplog.at_level("INFO"):
        train(family, toy_data, tmp_path / "run")

    assert "epoch 0, before training: val_accuracy" in caplog.text
    assert ("no epoch is better than the model before training" in caplog.text) is is_kept
