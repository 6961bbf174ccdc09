"""The GAN: what it generates, how that is evaluated, and that it is trained and served like any other network."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle, golden
from models.image import FAMILY
from models.image.config import Config
from models.image.data import Batch, balanced, dataset
from models.image.networks.build import build
from models.image.networks.frechet import frechet, moments
from models.image.networks.gan import Gan
from models.image.networks.generator import diff_augment
from models.image.report.contents import report
from models.image.report.generated import COPY_QUANTILE, copy_rate
from models.image.report.summary import summarise
from models.image.schema import MISSING
from models.prepared import Prepared
from models.report import Table
from tests.kit.gloo import run_workers
from tests.models.image.test_networks import (
    HEADS,
    SIZE,
    SMALL,
    assert_golden_losses,
    patterned,
    schema_of,
    train,
    write_prepared,
)

SETTINGS: dict[str, Any] = {"network": "gan", "latent": 8, "learning_rate": 5e-3, "width": 0.25, "batch_size": 32}


def banded(num_images: int, *, seed: int) -> Batch:
    """Images with a band of varying brightness at the top, in the middle or at the bottom, by the first label."""
    draw, batch = np.random.default_rng(seed), patterned(num_images, seed=seed)
    rows = np.arange(SIZE) // (SIZE // 3) == batch.labels[:, :1].numpy()
    brightness = 100 + 100 * draw.random(num_images)
    pixels = draw.integers(0, 50, (num_images, 3, SIZE, SIZE)) + (rows * brightness[:, None])[:, None, :, None]
    return Batch(torch.from_numpy(pixels.astype(np.uint8)), batch.labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of bands; it is conditioned on the first label only."""
    directory = tmp_path_factory.mktemp("gan")
    data, _ = write_prepared(directory / "data", banded(600, seed=5))
    result = train(data, directory / "run", epochs=20, **SETTINGS)
    return data, result, bundle.load(result.best, FAMILY)


def built(**changes: Any) -> Gan:
    torch.manual_seed(0)
    network = build(Config(precision="fp32", **{**SETTINGS, **changes}), schema_of(patterned(256, seed=1)))
    assert isinstance(network, Gan)
    return network


@pytest.mark.parametrize(("channels", "size"), [(1, 18), (1, 28), (3, 31), (3, 64)])
def test_images_of_any_side_from_18_to_64_are_generated_and_trained_on(channels: int, size: int) -> None:
    schema = schema_of(patterned(8, seed=0), channels=channels, size=size, mean=[0.5] * channels, std=[0.2] * channels)
    network = build(Config(network="gan", latent=8, width=0.25), schema).train()
    assert isinstance(network, Gan)
    labels = torch.tensor([[0, 1], [2, MISSING], [1, 0]])
    generated = network.generate(labels[:, 0], seed=0)

    loss = network(Batch(generated, labels))

    assert generated.shape == (3, channels, size, size)
    assert generated.dtype == torch.uint8
    assert bool(loss.isfinite())


@pytest.mark.parametrize("size", [16, 65])
def test_an_unsupported_image_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"images of {size} x {size} pixels; prepare them at 18 to 64"):
        build(Config(network="gan"), schema_of(patterned(8, seed=0), size=size))


def test_images_without_a_first_label_are_refused() -> None:
    counts = {"pattern": [0, 0, 0], "colour": [1, 1, 1]}

    with pytest.raises(ValueError, match="no training image has the first label, pattern"):
        build(Config(network="gan"), schema_of(patterned(8, seed=0), label_counts=counts))


def test_it_learns_to_generate_images_of_a_class(trained: Any) -> None:
    _, result, loaded = trained
    labels = torch.arange(3).repeat_interleave(50)

    generated = loaded.network.generate(labels, seed=3)

    assert result.metrics["val_class_fidelity"] > 0.6  # one in three by chance
    assert result.metrics["val_accuracy"] > 0.6
    assert float((loaded.network.features_and_classes(generated)[1] == labels).double().mean()) > 0.6
    for pixels in generated.split(50):
        assert float(pixels.float().std(0).mean()) > 5  # no mode collapse


def test_a_generated_image_depends_on_its_seed_and_class_only(trained: Any) -> None:
    network = trained[2].network
    one, two = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 2, 0])

    first, again, other_class, other_seed = (
        network.generate(labels, seed=seed) for labels, seed in ((one, 5), (one, 5), (two, 5), (one, 6))
    )

    assert torch.equal(first, again)
    assert [bool((first[place] == other_class[place]).all()) for place in range(4)] == [True, False, False, True]
    assert not torch.equal(first[0], other_seed[0])


def test_no_gradient_of_the_student_reaches_the_generator() -> None:
    gradients = []
    for sign in (1.0, -1.0):
        network, batch = built().train(), patterned(16, seed=3)
        with torch.no_grad():
            network.student.classifier.weight.mul_(sign)
        torch.manual_seed(0)
        network(batch).backward()
        gradients.append([_gradient(network.generator.dense.weight), _gradient(network.student.classifier.weight)])

    assert torch.equal(gradients[0][0], gradients[1][0])
    assert bool(gradients[0][0].any())
    assert not torch.equal(gradients[0][1], gradients[1][1])


def _gradient(weights: Tensor) -> Tensor:
    assert weights.grad is not None
    return weights.grad.clone()


def test_unlabelled_images_give_no_gradient() -> None:
    network, batch = built().train(), patterned(16, seed=3)
    nameless = Batch(batch.pixels, torch.full_like(batch.labels, MISSING))

    network(nameless).backward()

    found = {name: each.grad for name, each in network.named_parameters() if each.requires_grad}
    assert all(gradient is not None and not bool(gradient.any()) for gradient in found.values())


def test_diff_augment_translates_and_cuts_out_and_lets_gradients_through() -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 2, 24, 24, requires_grad=True)

    changed = diff_augment(images)
    changed.sum().backward()  # type: ignore[no-untyped-call]

    assert changed.shape == images.shape
    assert not torch.equal(changed, images)
    blank = (changed == 0).all(1).flatten(1).sum(1)
    assert 4 * 4 <= int(blank.min()) <= int(blank.max()) == 8 * 8
    assert images.grad is not None
    assert float(images.grad.sum()) == pytest.approx(float((changed != 0).sum()))


def test_copies_of_training_images_are_detected_and_new_images_are_not() -> None:
    torch.manual_seed(0)
    training, held_out, new = (torch.randn(count, 8) for count in (500, 400, 2000))

    assert copy_rate(training[:50], training, held_out) == 1
    assert copy_rate(training[:50] + 1e-3, training, held_out) == 1
    assert copy_rate(new, training, held_out) == pytest.approx(COPY_QUANTILE, abs=0.03)


def test_the_frechet_distance_is_0_for_equal_sets_and_grows_with_every_difference() -> None:
    torch.manual_seed(0)
    real = torch.randn(4000, 6)
    halves = moments(real[:1000]) + moments(real[1000:])

    assert frechet(moments(real), halves) == pytest.approx(0, abs=1e-6)
    assert frechet(moments(real), moments(real + 1)) == pytest.approx(1, rel=0.1)
    assert frechet(moments(10 * real), moments(10 * real + 10)) == pytest.approx(1, rel=0.1)
    assert frechet(moments(real), moments(real / 2)) == pytest.approx(0.25, rel=0.1)
    assert frechet(moments(real), moments(real[:0])) != frechet(moments(real), moments(real[:0]))


def test_the_accumulators_do_not_depend_on_the_batches(trained: Any) -> None:
    network, batch = trained[2].network, banded(60, seed=9)
    with torch.inference_mode():
        first, again = network.evaluate(batch), network.evaluate(batch)
        parts = [network.evaluate(Batch(batch.pixels[rows], batch.labels[rows])) for rows in (slice(25), slice(25, 60))]

    found = summarise(first.accumulators, trained[2].schema)

    assert found == summarise(again.accumulators, trained[2].schema)
    assert set(found) == {"fid", *(f"{name}_{head}" for name in ("macro_f1", "calibration_error") for head in HEADS)}
    assert found["fid"] > 0
    added = sum(part.accumulators["moments/real"] for part in parts)
    assert torch.allclose(first.accumulators["moments/real"], added)
    assert {len(ratio.numerator) for ratio in first.ratios.values()} == {60}


def test_labels_that_the_gan_is_not_conditioned_on_are_predicted_with_class_frequencies(trained: Any) -> None:
    loaded = trained[2]
    with torch.inference_mode():
        answers = loaded.network.predict(banded(5, seed=4))

    counts = np.array(loaded.schema.label_counts["colour"]) + 0.5
    for answer in answers:
        assert answer.probabilities["colour"] == pytest.approx((counts / counts.sum()).tolist(), abs=0.05)
        assert sum(answer.probabilities["pattern"]) == pytest.approx(1, abs=1e-5)


def test_a_stored_model_gives_its_golden_answer(trained: Any) -> None:
    loaded = trained[2]

    golden.check(FAMILY, loaded.network, loaded.schema, loaded.golden)


def test_the_report_shows_generated_images_of_every_class_with_their_metrics(trained: Any) -> None:
    data, _, loaded = trained

    first, again = (report(loaded.network, data, "val", schema=loaded.schema, config=loaded.config) for _ in range(2))

    (section,) = first
    rows, pairs = (part for part in section.content if isinstance(part, Table))
    assert first == again
    assert {row[0] for row in rows.rows} == set(HEADS["pattern"])
    trained_on = [row[1] for row in rows.rows]
    assert trained_on == sorted(trained_on)
    for row in rows.rows:
        assert len(row[2]) == 8  # type: ignore[arg-type]
        assert all(isinstance(value, float) and value >= 0 for value in row[3:])
        assert row[3] > row[4]  # type: ignore[operator]
    assert [len(row[1]) for row in pairs.rows] == [2, 2, 2]  # type: ignore[arg-type]
    assert 0 <= section.numbers["copy_rate"] <= 1


def test_balancing_samples_classes_equally_often_and_every_image_over_time() -> None:
    labels = np.repeat([0, 1, 2, MISSING], [900, 60, 15, 25]).astype(np.int16)
    counts = [900, 60, 15]

    seen = [balanced(labels, counts, balance=1, epoch=epoch) for epoch in range(1, 12)]
    half = labels[balanced(labels, counts, balance=0.5, epoch=1)]

    for rows in seen:
        shown = np.bincount(labels[rows][labels[rows] >= 0], minlength=3)
        assert len(rows) == len(labels)
        assert shown.max() - shown.min() <= 2
    assert not np.array_equal(seen[0], seen[1])
    assert set(np.concatenate(seen).tolist()) == set(range(len(labels)))
    assert np.array_equal(balanced(labels, counts, balance=0, epoch=3), np.arange(len(labels)))
    assert [int((half == place).sum()) for place in range(3)] == pytest.approx([703, 181, 91], abs=3)


def test_only_the_training_split_is_balanced_and_only_if_configured(tmp_path: Path) -> None:
    batch = banded(600, seed=5)
    batch.labels[60:, 0].clamp_min_(1)
    data, schema = write_prepared(tmp_path, batch)

    def rows(split: str, epoch: int, **fields: Any) -> list[bytes]:
        found = dataset(data, split, range(2), schema=schema, config=Config(**fields), epoch=epoch)
        return [found[place].pixels.tobytes() for place in range(len(found))]

    plain = rows("train", 1)
    assert rows("train", 1, network="gan", balance=0.0) == plain == rows("train", 0, network="gan")
    assert rows("train", 1, network="gan") == rows("train", 1, balance=1.0) != plain
    assert rows("val", 1, balance=1.0) == rows("val", 1)


def test_the_first_losses_are_what_they_were() -> None:
    assert_golden_losses("gan", built())


def test_an_interrupted_run_ends_as_if_it_had_not_been_interrupted(trained: Any, tmp_path: Path) -> None:
    class Stopped(Exception): ...

    def stop_after_one(report: dict[str, float | int]) -> None:
        if report["epoch"] == 1:
            raise Stopped

    settings = {**SETTINGS, "epochs": 2}
    whole = train(trained[0], tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        train(trained[0], tmp_path / "parts", report=stop_after_one, **settings)
    parts = train(trained[0], tmp_path / "parts", **settings)

    assert parts.metrics == whole.metrics
    loaded = [bundle.load(result.best, FAMILY).network.state_dict() for result in (whole, parts)]
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def test_two_workers_train_one_network_together(trained: Any, tmp_path: Path) -> None:
    run_workers(partial(work, trained[0]), 2, tmp_path)

    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert [report["epoch"] for report in first] == [0, 1]
    assert all(np.isfinite(list(report.values())).all() for report in first)
    assert first[1]["val_class_fidelity"] > 0


def work(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """One of two workers."""
    config = dataclasses.replace(SMALL, **SETTINGS, epochs=1)
    reports: list[dict[str, float | int]] = []
    worker = WorkerContext(rank=rank, world_size=world_size)
    run_training(FAMILY, config=config, data=data, directory=directory / "run", worker=worker, report=reports.append)
    kept = [
        {name: value for name, value in report.items() if name not in ("seconds", "examples_per_s")}
        for report in reports
    ]
    (directory / f"{rank}.json").write_text(json.dumps(kept))
