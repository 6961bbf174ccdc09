"""The best model of a run is logged as it improves, once each, and while it is being replaced not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jobs.cli.context import Context
from jobs.tracking.client import BUNDLE, Tracking
from jobs.training.checkpoints import best_of
from jobs.training.logged_bundle import BestBundle, log_best
from jobs.training.recording import EpochRecorder
from models import bundle
from models.errors import BundleRejected
from models.family import Family
from models.prepared import Prepared
from tests.kit.bundles import write_bundle


class Training:
    """A run whose best model is replaced when a test says so."""

    def __init__(self, context: Context, toy: Family, data: Prepared) -> None:
        self.context, self.toy, self.schema = context, toy, data.schema(toy.Schema)
        self.run = Tracking(context).start_run("toy", name="a run", params={}, tags={})
        self.directory = context.store.run_directory("toy", self.run.run_id)

    def improve(self, seed: int) -> str:
        """Replace the best model; returns its digest."""
        torch.manual_seed(seed)
        config = self.toy.Config()
        network = self.toy.build(config, self.schema)
        write_bundle(self.toy, best_of(self.directory), network=network, schema=self.schema, config=config)
        return bundle.verify(best_of(self.directory))

    @property
    def artifacts(self) -> Path:
        """Where the run's bundle is logged."""
        tracking = Tracking(self.context)
        return tracking.download(tracking.artifact_uri(self.run.run_id, BUNDLE), self.directory / "found")


@pytest.fixture
def training(context: Context, toy: Family, toy_data: Prepared) -> Training:
    return Training(context, toy, toy_data)


def test_the_best_model_is_logged_while_the_training_goes_on(training: Training) -> None:
    recorder = EpochRecorder(training.run, training.directory)
    found = []
    for epoch in (1, 2):
        digest = training.improve(seed=epoch)
        recorder._best = BestBundle(training.directory)  # without a rest
        recorder.after_epoch(epoch)
        found.append(bundle.verify(training.artifacts) == digest)

    assert found == [True, True]


def test_the_model_before_training_is_not_logged(training: Training) -> None:
    training.improve(seed=0)

    EpochRecorder(training.run, training.directory).after_epoch(0)

    assert not Tracking(training.context).has_bundle(training.run.run_id)


def test_an_unchanged_model_is_not_logged_again(training: Training) -> None:
    training.improve(seed=1)
    log_best(training.run, training.directory)
    shutil.rmtree(training.artifacts)

    log_best(training.run, training.directory)

    assert not Tracking(training.context).has_bundle(training.run.run_id)


def test_a_slow_upload_is_followed_by_a_rest_of_nine_times_its_duration(training: Training) -> None:
    times = iter([0.0, 0.0, 10.0, 99.0, 100.0, 100.0, 100.0])
    best = BestBundle(training.directory, clock=lambda: next(times))
    first = training.improve(seed=1)
    best.log_improvement(training.run)
    second = training.improve(seed=2)

    best.log_improvement(training.run)
    assert bundle.verify(training.artifacts) == first
    best.log_improvement(training.run)
    assert bundle.verify(training.artifacts) == second


def test_a_model_that_is_being_replaced_is_logged_later(training: Training) -> None:
    digest = training.improve(seed=1)
    weights = best_of(training.directory) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    best = BestBundle(training.directory, clock=lambda: 0.0)

    best.log_improvement(training.run)
    assert not Tracking(training.context).has_bundle(training.run.run_id)
    weights.write_bytes(content)
    best.log_improvement(training.run)
    assert bundle.verify(training.artifacts) == digest


def test_a_damaged_model_at_the_end_is_an_error(training: Training) -> None:
    training.improve(seed=1)
    (best_of(training.directory) / "model.safetensors").write_bytes(b"")

    with pytest.raises(BundleRejected, match="truncated"):
        log_best(training.run, training.directory)


def test_a_model_that_the_server_refused_is_logged_again(training: Training) -> None:
    digest = training.improve(seed=1)
    unknown = Tracking(training.context).resume_run("0" * 32)

    log_best(unknown, training.directory)
    log_best(training.run, training.directory)

    assert bundle.verify(training.artifacts) == digest
