"""Training on a GPU: the same course as on a processor, checkpoints and bundles that move between them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jobs.cli.context import Store
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.gradients import Gradients, GraphedGradients, gradients_of
from jobs.training.loop import Loss, Result, run_training
from jobs.training.optimizer import clip_gradients, make_optimizer
from jobs.training.task import TrainingTask
from models import FAMILIES, bundle
from models.golden import check
from models.json_files import read_json
from models.prepared import Prepared
from models.recommender.sample import write_sample
from tests.kit.gloo import run_workers
from tests.kit.logs import prepared as prepared_log
from tests.kit.pictures import prepared as prepared_pictures
from tests.kit.pictures import write_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
GPU, CPU = WorkerContext(device="cuda"), WorkerContext()
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("recommender", "transformer"): {"dim": 16, "max_length": 20},
    ("recommender", "gru"): {"dim": 16, "max_length": 20},
    ("recommender", "two_tower"): {"dim": 16, "max_length": 20},
    ("recommender", "autoencoder"): {"dim": 16, "max_length": 20},
    ("recommender", "gan"): {"dim": 16, "max_length": 20},
    ("image", "resnet"): {"width": 0.25},
    ("image", "cnn"): {"width": 0.25},
    ("image", "autoencoder"): {},
    ("image", "gan"): {},
}
LOSS_TOLERANCE = 0.15
"""Relative: dropout, negatives and augmentation draw from another generator on a GPU."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    shop = write_sample(tmp_path_factory.mktemp("shop"), num_users=300, num_items=120, num_events=9_000, seed=3)
    log = prepared_log(Store(tmp_path_factory.mktemp("store")), shop.events, split="leave-one-out")
    root = tmp_path_factory.mktemp("pictures")
    pictures, _ = prepared_pictures(root, write_folder(root / "raw", num_images=240), size=20)
    return {"recommender": log, "image": pictures}


def train(
    family_name: str, data: Prepared, directory: Path, *, worker: WorkerContext, epochs: int = 2, **fields: Any
) -> tuple[list[dict[str, Any]], Result]:
    family = FAMILIES[family_name]
    reports: list[dict[str, Any]] = []
    config = family.Config(**{"batch_size": 32, "epochs": epochs, "precision": "fp32", "patience": 0, **fields})
    result = run_training(family, config=config, data=data, directory=directory, worker=worker, report=reports.append)
    return reports, result


@pytest.mark.parametrize(("family", "network"), SETTINGS)
def test_training_takes_the_course_of_a_processor(
    family: str, network: str, data: dict[str, Prepared], tmp_path: Path
) -> None:
    fields = {"network": network, **SETTINGS[family, network]}

    on_cpu, _ = train(family, data[family], tmp_path / "cpu", worker=CPU, **fields)
    on_gpu, _ = train(family, data[family], tmp_path / "gpu", worker=GPU, **fields)

    metric = FAMILIES[family].metric.name
    assert on_gpu[0][f"val_{metric}"] == pytest.approx(on_cpu[0][f"val_{metric}"], rel=1e-3, abs=2e-3)
    assert on_gpu[-1]["train_loss"] == pytest.approx(on_cpu[-1]["train_loss"], rel=LOSS_TOLERANCE)


@pytest.mark.parametrize(("family", "network"), SETTINGS)
def test_its_bundle_gives_its_golden_answers_on_a_processor(
    family: str, network: str, data: dict[str, Prepared], tmp_path: Path
) -> None:
    fields = {"network": network, **SETTINGS[family, network]}

    _, result = train(family, data[family], tmp_path, worker=GPU, epochs=1, **fields)

    loaded = bundle.load(result.best, FAMILIES[family])
    check(FAMILIES[family], loaded.network, loaded.schema, read_json(result.best / "golden.json"))


@pytest.mark.parametrize(("first", "then"), [(GPU, CPU), (CPU, GPU)])
@pytest.mark.parametrize(("family", "network"), [("recommender", "transformer"), ("image", "resnet")])
def test_a_run_resumes_on_the_other_device(
    family: str, network: str, first: WorkerContext, then: WorkerContext, data: dict[str, Prepared], tmp_path: Path
) -> None:
    class Interruption(Exception):
        pass

    def stop(report: dict[str, float | int]) -> None:
        if report["epoch"] == 1:
            raise Interruption

    chosen = FAMILIES[family]
    fields: dict[str, Any] = {"network": network, **SETTINGS[family, network]}
    config = chosen.Config(**{"batch_size": 32, "epochs": 3, "precision": "fp32", "patience": 0, **fields})
    with pytest.raises(Interruption):
        run_training(chosen, config=config, data=data[family], directory=tmp_path, worker=first, report=stop)
    result = run_training(
        chosen, config=config, data=data[family], directory=tmp_path, worker=then, report=lambda report: None
    )

    assert result.epochs == 3
    assert [report["epoch"] for report in checkpoints.read_reports(tmp_path)] == [0, 1, 2, 3]


def test_bf16_reaches_the_loss_of_fp32(data: dict[str, Prepared], tmp_path: Path) -> None:
    fields = {"network": "transformer", **SETTINGS["recommender", "transformer"]}

    exact, _ = train("recommender", data["recommender"], tmp_path / "a", worker=GPU, **fields)
    rounded, _ = train(
        "recommender", data["recommender"], tmp_path / "b", worker=GPU, **{**fields, "precision": "bf16"}
    )

    assert rounded[-1]["train_loss"] == pytest.approx(exact[-1]["train_loss"], rel=0.02)


@pytest.mark.parametrize(
    ("family", "network"),
    [key for key in SETTINGS if key not in {("recommender", name) for name in ("gru", "autoencoder", "gan")}],
)
def test_a_step_does_not_wait_for_the_gpu(family: str, network: str, data: dict[str, Prepared]) -> None:
    chosen = FAMILIES[family]
    schema = data[family].schema(chosen.Schema, chosen.files)
    fields: dict[str, Any] = {"network": network, "precision": "fp32", **SETTINGS[family, network]}
    config = chosen.resolve(chosen.Config(**fields), schema)
    model = chosen.build(config, schema).to("cuda").train()
    optimizer = make_optimizer(chosen, model, config)
    examples = chosen.dataset(data[family], "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    batch = chosen.collate([examples[row] for row in range(16)]).to("cuda")

    def step() -> None:
        torch.autograd.backward(chosen.loss(model, batch))
        clip_gradients([each for each in model.parameters() if each.requires_grad], 1.0)
        optimizer.step()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("network", ["transformer", "two_tower"])
def test_a_graph_gives_the_gradients_of_its_kernels(network: str, data: dict[str, Prepared], tmp_path: Path) -> None:
    family = FAMILIES["recommender"]
    schema = data["recommender"].schema(family.Schema, family.files)
    fields: dict[str, Any] = {"network": network, "precision": "fp32", "dropout": 0.0}
    config = family.resolve(family.Config(**fields, **SETTINGS["recommender", network]), schema)
    model = family.build(config, schema).to("cuda").train()
    task = TrainingTask(family, config, schema, data["recommender"], tmp_path, GPU)
    examples = family.dataset(task.data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
    sizes = [range(8), range(8, 16), range(16, 21), range(21, 29)]
    batches = [family.collate([examples[row] for row in rows]).to("cuda") for rows in sizes]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    graphed = gradients_of(Loss(family.loss, model), parameters, task)
    plain = Gradients(Loss(family.loss, model), parameters, task)
    assert isinstance(graphed, GraphedGradients)

    for batch in batches:
        loss, norm = (value.clone() for value in graphed(batch))
        found = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        kept = [parameter.grad for parameter in parameters]
        expected_loss, expected_norm = plain(batch)
        expected = [parameter.grad for parameter in parameters if parameter.grad is not None]

        torch.testing.assert_close((loss, norm, found), (expected_loss, expected_norm, expected), rtol=1e-3, atol=1e-5)
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def test_a_resumed_run_equals_an_uninterrupted_one(data: dict[str, Prepared], tmp_path: Path) -> None:
    class Interruption(Exception):
        pass

    def stop(report: dict[str, float | int]) -> None:
        if report["epoch"] == 1:
            raise Interruption

    family = FAMILIES["recommender"]
    fields: dict[str, Any] = {"network": "transformer", **SETTINGS["recommender", "transformer"]}
    config = family.Config(**{"batch_size": 32, "epochs": 3, "precision": "fp32", "patience": 0, **fields})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings: dict[str, Any] = {"config": config, "data": data["recommender"], "worker": GPU}
    run_training(family, directory=whole, report=lambda report: None, **settings)
    with pytest.raises(Interruption):
        run_training(family, directory=parts, report=stop, **settings)
    run_training(family, directory=parts, report=lambda report: None, **settings)

    losses = [[report.get("train_loss") for report in checkpoints.read_reports(each)] for each in (whole, parts)]
    assert losses[0][1:] == pytest.approx(losses[1][1:], rel=1e-4)


def _two_workers(rank: int, world_size: int, directory: Path) -> None:
    """Two processes with one GPU and gloo: NCCL refuses two ranks of one device."""
    family = FAMILIES["recommender"]
    config = family.Config(
        **{"batch_size": 32, "epochs": 2, "precision": "fp32", "patience": 0, "network": "transformer"},
        **SETTINGS["recommender", "transformer"],
    )
    data = Prepared(Path((directory / "data").read_text(encoding="utf-8")))
    worker = dataclasses.replace(GPU, rank=rank, world_size=world_size)
    run_training(
        family, config=config, data=data, directory=directory / "run", worker=worker, report=lambda report: None
    )
    assert dist.get_backend() == "gloo"


def test_two_workers_share_a_gpu(data: dict[str, Prepared], tmp_path: Path) -> None:
    (tmp_path / "data").write_text(str(data["recommender"].path), encoding="utf-8")
    fields = {"network": "transformer", **SETTINGS["recommender", "transformer"]}

    run_workers(_two_workers, 2, tmp_path)
    one, _ = train("recommender", data["recommender"], tmp_path / "one", worker=GPU, **fields)

    two = checkpoints.read_reports(tmp_path / "run")
    assert two[-1]["train_loss"] == pytest.approx(one[-1]["train_loss"], rel=LOSS_TOLERANCE)
