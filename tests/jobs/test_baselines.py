"""The baselines' scores: those that training would give, kept in the store until data, settings or code change."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.cli.context import Context
from jobs.evaluation.baselines import baseline_scores, fitted
from jobs.evaluation.scoring import load_model, score
from jobs.training.checkpoints import best_of
from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import FAMILIES
from models.evaluate import Scores
from models.family import Family
from models.prepared import Prepared
from tests.kit.shop import prepare_shop


def counting(family: Family) -> tuple[Family, Callable[[], int]]:
    """The family, and how often a network of it was initialised."""
    calls = []

    def initialise(network: Any, data: Prepared, schema: Any) -> None:
        calls.append(network)
        family.initialise(network, data, schema)

    return dataclasses.replace(family, initialise=initialise), lambda: len(calls)


def only(context: Context, family: Family, data: Prepared, split: str = "test") -> Scores:
    """Scores of the only baseline of the toy family."""
    ((name, found),) = baseline_scores(context, family, data, split=split)
    assert name == "majority"
    return found


def test_scores_are_computed_once_and_equal_when_read_again(context: Context, toy: Family, toy_data: Prepared) -> None:
    family, num_calls = counting(toy)

    first, again = (only(context, family, toy_data) for _ in "12")

    assert num_calls() == 1
    assert again.num_examples == first.num_examples and again.values(toy.all_metrics) == first.values(toy.all_metrics)
    assert (again.numerators["accuracy"] == first.numerators["accuracy"]).all()
    assert (again.slices["warmth"] == first.slices["warmth"]).all()
    assert torch.equal(again.accumulators["picked"], first.accumulators["picked"])


def test_each_split_data_and_setting_has_scores_of_its_own(context: Context, toy: Family, toy_data: Prepared) -> None:
    family, num_calls = counting(toy)
    other = dataclasses.replace(family, baselines={"majority": toy.Config(network="majority", seed=1)})

    scores = [only(context, family, toy_data), only(context, family, toy_data, "val"), only(context, other, toy_data)]

    assert num_calls() == 3 and scores[0].num_examples != scores[1].num_examples


@pytest.mark.parametrize("content", [b"", b"no scores", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_computed_again(context: Context, toy: Family, toy_data: Prepared, content: bytes) -> None:
    family, num_calls = counting(toy)
    before = only(context, family, toy_data)
    (file,) = context.store.baselines("toy").rglob("*.scores")
    file.write_bytes(content)

    after = only(context, family, toy_data)

    assert num_calls() == 2 and np.array_equal(after.numerators["accuracy"], before.numerators["accuracy"])


@pytest.mark.parametrize("place", [0, 31, 32, 38, 500, -40, -1])
def test_a_file_with_a_flipped_bit_is_computed_again(
    context: Context, toy: Family, toy_data: Prepared, place: int
) -> None:
    family, num_calls = counting(toy)
    only(context, family, toy_data)
    (file,) = context.store.baselines("toy").rglob("*.scores")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)

    only(context, family, toy_data)

    assert num_calls() == 2


def test_a_family_of_a_package_without_an_init_file_has_baselines(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_namespace").mkdir()
    (tmp_path / "acme_namespace" / "shop.py").write_text(
        "from tests.kit import toy\n\n\nclass Config(toy.Config): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = importlib.import_module("acme_namespace.shop").Config
    family = dataclasses.replace(toy, Config=config, baselines={"majority": config(network="majority")})

    assert only(context, family, toy_data).num_examples > 0


def test_the_transitions_baseline_equals_a_trained_transitions_model(context: Context, tmp_path: Path) -> None:
    family, data = FAMILIES["recommender"], prepare_shop(context.store)
    config = family.baselines["transitions"]
    run_training(
        family, config=config, data=data, directory=tmp_path, worker=WorkerContext(), report=lambda metrics: None
    )
    trained = score(context, load_model(best_of(tmp_path), family), data=data, split="test")

    baseline = dict(baseline_scores(context, family, data, split="test"))["transitions"]

    assert np.array_equal(baseline.numerators["ndcg_at_10"], trained.numerators["ndcg_at_10"])


def test_an_untrained_network_is_the_same_each_time(toy: Family, toy_data: Prepared) -> None:
    first, again = (fitted(toy, toy.Config(network="hidden"), toy_data).network for _ in "12")

    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
