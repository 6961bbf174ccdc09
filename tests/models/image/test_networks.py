"""The image networks: missing labels, calibration, augmentation, batch-norm statistics, resuming and training."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from jobs.training.task import TrainingTask
from jobs.training.validation import validate
from models import bundle
from models.image import FAMILY
from models.image.config import Config
from models.image.data import Batch, collate, dataset
from models.image.networks import augment
from models.image.networks.build import optimizer as optimizer_of
from models.image.networks.classifier import Classifier, build, channels_last
from models.image.networks.resnet import ResNet, Whitening
from models.image.report.summary import summarise
from models.image.schema import MISSING, Schema
from models.json_files import read_json
from models.nn.muon import orthogonalised
from models.prepared import Prepared
from tests.conftest import CHECKOUT
from tests.kit.gloo import run_workers

TRAINED = ("resnet", "cnn")
SMALL = Config(width=0.25, batch_size=32, epochs=4, precision="fp32", shift=1)
SIZE = 20
HEADS = {"pattern": ["across", "checks", "down"], "colour": ["blue", "green", "red"]}
GOLDEN = CHECKOUT / "tests" / "golden" / "losses"


def patterned(num_images: int, *, seed: int, missing: float = 0.2) -> Batch:
    """Stripes or checks in one of three colours under noise; a share of the colours is not labelled."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, (num_images, 2))
    waves = (np.arange(SIZE) // 3 + draw.integers(0, 2, (num_images, 1))) % 2
    across, down = np.broadcast_arrays(waves[:, :, None], waves[:, None, :])
    shapes = np.stack([across, across ^ down, down], 1)[np.arange(num_images), labels[:, 0]]
    pixels = draw.integers(0, 60, (num_images, 3, SIZE, SIZE)) + 30
    pixels[np.arange(num_images), 2 - labels[:, 1]] += 160 * shapes
    labels[draw.random(num_images) < missing, 1] = MISSING
    return Batch(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


def schema_of(batch: Batch, **changes: Any) -> Schema:
    images = batch.pixels.float() / 255
    counts = [torch.bincount(column[column >= 0], minlength=3).tolist() for column in batch.labels.unbind(1)]
    plain = Schema(
        family="image",
        fingerprint="0" * 64,
        num_shards=2,
        num_examples={"train": len(batch.pixels), "val": 200, "test": 0},
        heads=HEADS,
        label_counts=dict(zip(HEADS, counts, strict=True)),
        channels=3,
        size=SIZE,
        mean=images.mean((0, 2, 3)).tolist(),
        std=images.std((0, 2, 3)).tolist(),
        item_ids=False,
    )
    return plain.model_copy(update=changes)


def write_prepared(out: Path, batch: Batch | None = None) -> tuple[Prepared, Schema]:
    """A prepared directory of 600 images in two shards, of which a third is for validation."""
    batch = batch or patterned(600, seed=5)
    for shard, rows in enumerate(torch.arange(600).reshape(2, 300)):
        directory = out / "shards" / f"{shard:05d}"
        directory.mkdir(parents=True)
        np.save(directory / "pictures.npy", batch.pixels[rows].numpy())
        np.save(directory / "labels.npy", batch.labels[rows].numpy().astype(np.int16))
        for split, places in {"train": range(200), "val": range(200, 300), "test": range(0)}.items():
            np.save(directory / f"{split}.npy", np.array(places, np.int64))
    schema = schema_of(batch, num_examples={"train": 400, "val": 200, "test": 0})
    (out / "schema.json").write_text(schema.model_dump_json())
    return Prepared(out), schema


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_prepared(tmp_path_factory.mktemp("data"))[0]


def built(network: Any, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    batch = patterned(256, seed=1)
    model = build(dataclasses.replace(SMALL, network=network, **changes), schema_of(batch))
    if isinstance(model.trunk, ResNet):
        model.trunk.whitening.fit(model.normalise(batch.pixels))
    return model.eval()


def test_the_mixup_loss_weights_both_labels() -> None:
    model = built("cnn", mixup=0.4, flip=False, shift=0, label_smoothing=0.0).train()
    batch = patterned(16, seed=1)
    torch.manual_seed(3)
    loss = model(batch)
    torch.manual_seed(3)
    mixed, others, share = augment.mix(model.normalise(batch.pixels), 0.4)

    logits = model.logits_of(model.trunk(channels_last(mixed)))
    first, second = (
        torch.stack(
            [
                functional.cross_entropy(head_logits, head_labels, ignore_index=MISSING)
                for head_logits, head_labels in zip(logits, labels.unbind(1), strict=True)
            ]
        ).mean()
        for labels in (batch.labels, batch.labels[others])
    )

    assert torch.isclose(loss, share * first + (1 - share) * second, rtol=1e-5)


@pytest.mark.parametrize("flag", ["shift", "test_shift"])
def test_a_shift_larger_than_the_image_is_refused(flag: str) -> None:
    moved: dict[str, Any] = {flag: 400}
    config = dataclasses.replace(SMALL, **moved)

    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} is 400, but the images have a side of"):
        FAMILY.build(config, schema_of(patterned(9, seed=1)))


def test_a_prediction_is_the_mean_over_the_tta_views() -> None:
    batch = patterned(5, seed=6)
    model = built("cnn", test_shift=2, flip=False)
    plain = built("cnn", flip=False)
    plain.load_state_dict(model.state_dict())

    with torch.inference_mode():
        found = model._logits(model._features(batch.pixels))[0]
        moved = [
            plain._logits(plain.trunk(view)[:, :, None])[0]
            for view in augment.tta_views(model.normalise(batch.pixels), flip=False, distance=2)
        ]

    assert len(moved) == 3
    assert torch.allclose(found, torch.stack(moved).mean(0), atol=1e-5)
    assert not torch.allclose(found, moved[0], atol=1e-3)


def test_whitened_patches_are_uncorrelated_and_of_equal_variance() -> None:
    images = built("resnet").normalise(patterned(256, seed=3).pixels)
    layer = Whitening(channels=3, stride=1)
    layer.fit(images)

    out = layer(images)[:, : layer.num_directions].transpose(0, 1).flatten(1).double()

    spread = out @ out.T / out.shape[1]
    assert torch.allclose(spread, torch.eye(len(spread), dtype=torch.float64), atol=0.15)


def test_an_orthogonalised_step_has_the_same_size_in_every_direction() -> None:
    torch.manual_seed(0)

    for shape in ((16, 40), (40, 16)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape) @ torch.diag(torch.rand(shape[1]) + 0.1)))
        assert 0.4 < float(values.min()) < float(values.max()) < 1.4


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 64), (3, 112), (1, 20)])
def test_a_resnet_accepts_images_of_any_side_and_three_quarters_of_it(channels: int, size: int) -> None:
    network = ResNet(channels=channels, size=size, width=0.25, num_convolutions=3)

    for side in (size, size * 3 // 4):
        assert network(torch.rand(2, channels, side, side)).shape == (2, network.dim)


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_a_resnet_starts_at_the_loss_of_uniform_predictions(width: float) -> None:
    torch.manual_seed(0)
    batch = patterned(64, seed=3, missing=0.0)
    network = build(dataclasses.replace(SMALL, width=width), schema_of(batch))
    assert isinstance(network.trunk, ResNet)
    network.trunk.whitening.fit(network.normalise(batch.pixels))

    assert float(network.train()(batch).detach()) == pytest.approx(np.log(3), rel=0.1)


def test_a_trained_resnet_has_the_batch_norm_statistics_of_unaugmented_images(data: Prepared, tmp_path: Path) -> None:
    """And not those of the last batches, which are cut and blended."""
    result = train(data, tmp_path / "run", cut_out=10, mixup=1.0, epochs=1)
    model = bundle.load(result.best, FAMILY).network
    norm = model.trunk.groups[0].norms[0]

    images = dataset(data, "train", range(2), schema=data.schema(Schema), config=model.config, epoch=0)
    pixels = collate([images[place] for place in range(len(images))]).pixels
    with torch.no_grad():
        whitened = functional.gelu(model.trunk.whitening(model.normalise(pixels)))
        pooled = functional.max_pool2d(model.trunk.groups[0].convolutions[0](whitened), 2)
    torch.testing.assert_close(norm.running_mean, pooled.mean((0, 2, 3)), rtol=0.02, atol=0.01)
    torch.testing.assert_close(norm.running_var, pooled.var((0, 2, 3)), rtol=0.02, atol=0.01)


def test_two_workers_are_evaluated_with_the_same_statistics(data: Prepared, tmp_path: Path) -> None:
    run_workers(partial(work, data), 2, tmp_path)

    config = dataclasses.replace(SMALL, epochs=1)
    loaded = bundle.load(tmp_path / "run" / "best", FAMILY)
    task = TrainingTask(FAMILY, config, loaded.schema, data, tmp_path / "run", WorkerContext())
    alone = validate(task, loaded.network)
    said = read_json(tmp_path / "run" / "best" / "metrics.json")
    assert alone == {name: pytest.approx(said[name], rel=1e-6) for name in alone}


def work(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """One of two workers."""
    train(data, directory / "run", worker=WorkerContext(rank=rank, world_size=world_size), epochs=1)


def test_grey_images_leave_the_first_convolution_in_channels_last_format() -> None:
    images = channels_last(torch.rand(4, 1, 12, 12).contiguous(memory_format=torch.channels_last))

    found = torch.nn.functional.conv2d(images, torch.rand(8, 1, 3, 3))

    assert found.is_contiguous(memory_format=torch.channels_last)


def test_images_too_small_for_the_cnn_are_refused() -> None:
    with pytest.raises(ValueError, match="of side 12 are too small"):
        build(Config(network="cnn"), schema_of(patterned(8, seed=0), size=12))


@pytest.mark.parametrize("network", TRAINED)
def test_missing_labels_do_not_contribute_to_the_loss(network: Any) -> None:
    model, batch = built(network, label_smoothing=0.1), patterned(12, seed=4, missing=0)
    batch.labels[6:] = MISSING
    both, first = model(batch), model(Batch(batch.pixels[:6], batch.labels[:6]))
    batch.labels[:, 1] = MISSING
    one_head = model(batch)
    batch.labels[:] = MISSING

    assert torch.isclose(both, first, rtol=1e-4)
    assert torch.isclose(one_head, 2 * both - _only(model, batch, first_head=False), rtol=1e-4)
    assert model(batch).item() == 0


def _only(model: Classifier, batch: Batch, *, first_head: bool) -> Tensor:
    """The loss of one head on the first six images."""
    labels = patterned(12, seed=4, missing=0).labels[:6]
    labels[:, int(first_head)] = MISSING
    loss: Tensor = model(Batch(batch.pixels[:6], labels))
    return loss


@pytest.mark.parametrize("network", TRAINED)
def test_a_prediction_depends_neither_on_the_other_images_nor_on_a_flip(network: Any) -> None:
    model, batch = built(network), patterned(9, seed=6)
    with torch.inference_mode():
        together = model.predict(batch)
        alone = model.predict(Batch(batch.pixels[4:5], batch.labels[4:5]))[0]
        mirrored = model.predict(Batch(batch.pixels[4:5].flip(3), batch.labels[4:5]))[0]
        embeddings = model.embed(batch)

    for other in (alone, mirrored):
        assert list(other.probabilities) == list(HEADS)
        for head, probabilities in together[4].probabilities.items():
            assert np.allclose(probabilities, other.probabilities[head], atol=1e-4)
            assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert np.allclose(together[4].embedding, other.embedding, atol=1e-3)
    assert np.allclose(embeddings[4].tolist(), together[4].embedding, atol=1e-5)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(9))


def test_a_temperature_is_found_for_each_head_that_has_labels() -> None:
    model, batch = built("cnn"), patterned(128, seed=7, missing=1.0)
    with torch.no_grad():
        model.classifier.weight *= 100
    with torch.inference_mode():
        before = _mean(model.evaluate(batch).ratios["log_loss"])
        sums = model.calibration(batch)
        assert sums is not None
        model.calibrate(sums)
        after = _mean(model.evaluate(batch).ratios["log_loss"])

    assert float(model.temperatures[0]) > 2
    assert float(model.temperatures[1]) == 1
    assert after < before


def _mean(ratio: Any) -> float:
    return float(ratio.numerator.sum() / ratio.denominator.sum())


def test_macro_f1_and_calibration_error_come_from_the_summed_accumulators() -> None:
    confusion = torch.tensor([[8.0, 2.0, 0.0], [0.0, 0.0, 0.0], [4.0, 0.0, 6.0]])
    reliability = torch.tensor([[10.0, 6.0, 5.0], [10.0, 9.0, 9.5]])
    accumulators = {f"confusion/{head}": confusion for head in HEADS} | {
        f"reliability/{head}": reliability for head in HEADS
    }

    found = summarise(accumulators, schema_of(patterned(8, seed=0)))

    assert found["macro_f1_pattern"] == pytest.approx((16 / 22 + 12 / 16) / 2)
    assert found["calibration_error_colour"] == pytest.approx((1 + 0.5) / 20)


def test_accumulators_count_every_labelled_image_once() -> None:
    model, batch = built("cnn"), patterned(50, seed=8)
    with torch.inference_mode():
        found = model.evaluate(batch)
    accumulators, ratios = found.accumulators, found.ratios

    for place, head in enumerate(HEADS):
        num_labels = int((batch.labels[:, place] != MISSING).sum())
        assert (
            int(accumulators[f"confusion/{head}"].sum())
            == num_labels
            == int(ratios[f"accuracy_{head}"].denominator.sum())
        )
        hits = accumulators[f"confusion/{head}"].diagonal().sum()
        assert hits == accumulators[f"reliability/{head}"][:, 2].sum() == ratios[f"accuracy_{head}"].numerator.sum()


@pytest.mark.parametrize("network", TRAINED)
def test_the_first_losses_are_what_they_were(network: Any) -> None:
    assert_golden_losses(network, built(network, cut_out=4, small_fraction=0.2, num_convolutions=3))


def assert_golden_losses(name: str, model: Any) -> None:
    """Golden numbers: a change of the science shows here first. To renew them, copy the losses from the failure."""
    torch.manual_seed(0)
    optimizer = optimizer_of(model) or torch.optim.AdamW(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group.get("rate_scale", 1.0)
    losses = []
    model.train()
    for step in range(20):
        optimizer.zero_grad()
        loss = model(patterned(32, seed=100 + step))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    expected = np.loadtxt(GOLDEN / f"image_{name}.txt")
    assert np.allclose(losses, expected, rtol=2e-2), f"losses are now {[round(loss, 4) for loss in losses]}"


@pytest.mark.parametrize("network", TRAINED)
def test_a_network_learns_obvious_patterns_and_the_prior_does_not(network: Any, data: Prepared, tmp_path: Path) -> None:
    more: dict[str, Any] = {"width": 1.0, "epochs": 15, "flip": False} if network == "cnn" else {}
    scores = {name: train(data, tmp_path / name, network=name, **more).metrics for name in (network, "prior")}

    assert scores[network]["val_accuracy"] > 0.9
    assert scores[network]["val_accuracy_colour"] > 0.9
    assert scores["prior"]["val_accuracy"] < 0.5


def test_the_linear_baseline_predicts_colours_without_training(data: Prepared, tmp_path: Path) -> None:
    result = train(data, tmp_path / "run", network="linear")

    assert result.epochs == 0
    assert result.metrics["val_accuracy_colour"] > 0.9


def test_an_interrupted_run_of_a_resnet_ends_as_if_it_had_not_been_interrupted(data: Prepared, tmp_path: Path) -> None:
    class Stopped(Exception): ...

    def stop_after_two(report: dict[str, float | int]) -> None:
        if report["epoch"] == 2:
            raise Stopped

    whole = train(data, tmp_path / "whole", network="resnet", small_fraction=0.5)
    with pytest.raises(Stopped):
        train(data, tmp_path / "parts", report=stop_after_two, network="resnet", small_fraction=0.5)
    parts = train(data, tmp_path / "parts", network="resnet", small_fraction=0.5)

    assert parts.metrics == whole.metrics
    loaded = [bundle.load(result.best, FAMILY).network.state_dict() for result in (whole, parts)]
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def train(
    data: Prepared,
    directory: Path,
    *,
    worker: WorkerContext | None = None,
    report: Any = lambda _: None,
    **changes: Any,
) -> Any:
    config = dataclasses.replace(SMALL, **changes)
    return run_training(
        FAMILY, config=config, data=data, directory=directory, worker=worker or WorkerContext(), report=report
    )
