"""Metrics computed on a whole split, such as macro F1, in training, evaluation, sweeps and the gate."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from jobs import evaluate, promote, sweep
from jobs.cli.context import Context, GateNotMet
from jobs.evaluation import bootstrap
from jobs.evaluation.bootstrap import MAX_COMPUTED_EXAMPLES, compare_scores, metric_interval
from jobs.evaluation.gate import check_better
from jobs.evaluation.scoring import load_model, score
from jobs.evaluation.slice_gate import Limits, check_slices
from jobs.tracking.client import Tracking
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, TrainingDiverged, run_training
from models.evaluate import Scores
from models.family import Family, Gate
from models.metrics import BatchMetrics, Kept, Metric
from models.prepared import Prepared
from tests.kit import toy
from tests.kit.gloo import run_workers
from tests.kit.register import TOY
from tests.kit.toy_models import write_toy_model
from tests.kit.toy_whole import BY_MACRO_F1, BY_RMSE, MACRO_F1, RMSE

FAMILIES_BY_METRIC: dict[str, Family] = {"macro_f1": BY_MACRO_F1, "rmse": BY_RMSE}
CONFIG = toy.Config(network="hidden", epochs=5, learning_rate=0.05, patience=0)
Reports = list[dict[str, float | int]]


def train(
    family: Family, data: Prepared, directory: Path, *, worker: WorkerContext | None = None, config: toy.Config = CONFIG
) -> tuple[Reports, Result]:
    reports: Reports = []
    result = run_training(
        family, config=config, data=data, directory=directory, worker=worker or WorkerContext(), report=reports.append
    )
    return reports, result


@pytest.mark.parametrize("name", FAMILIES_BY_METRIC)
def test_the_best_epoch_is_selected_by_the_whole_split_metric(
    name: str, toy_data: Prepared, context: Context, tmp_path: Path
) -> None:
    family = FAMILIES_BY_METRIC[name]

    reports, result = train(family, toy_data, tmp_path / "run")

    values = [report[f"val_{name}"] for report in reports]
    assert values[result.best_epoch] == (max if name == "macro_f1" else min)(values) != values[0]
    assert reports[-1][f"best_val_{name}"] == values[result.best_epoch]
    kept = score(context, load_model(result.best, family), data=toy_data, split="val").kept
    assert family.metric.compute is not None
    assert family.metric.compute(kept) == result.metrics[f"val_{name}"] == values[result.best_epoch]


def test_whole_split_metrics_are_equal_on_1_and_2_workers(toy_data: Prepared, tmp_path: Path) -> None:
    alone, _ = train(BY_MACRO_F1, toy_data, tmp_path / "alone", config=dataclasses.replace(CONFIG, epochs=2))

    run_workers(partial(work, toy_data), 2, tmp_path)

    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    # Before training all have the same network; after it, the same but for the order of additions.
    names = ("val_macro_f1", "val_rmse", "val_accuracy")
    assert [found[0][0][name] for name in names] == [alone[0][name] for name in names]
    assert all(found[0][2][name] == pytest.approx(alone[2][name], abs=0.1) for name in names)
    assert found[0][2]["best_val_macro_f1"] == max(report["val_macro_f1"] for report in found[0])


def work(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """The work of one of two workers."""
    worker = WorkerContext(rank=rank, world_size=world_size)
    reports, _ = train(
        BY_MACRO_F1, data, directory / "shared", worker=worker, config=dataclasses.replace(CONFIG, epochs=2)
    )
    times = ("seconds", "examples_per_s")
    numbers = [{name: value for name, value in report.items() if name not in times} for report in reports]
    (directory / f"{rank}.json").write_text(json.dumps(numbers))


def test_a_secondary_metric_may_be_undefined(toy_data: Prepared, tmp_path: Path) -> None:
    undefined = Metric("share_of_none", "max", compute=lambda kept: math.nan)
    family = dataclasses.replace(BY_MACRO_F1, metrics=[*BY_MACRO_F1.metrics, undefined])

    reports, _ = train(family, toy_data, tmp_path / "run")

    assert [report["epoch"] for report in reports] == [0, 1, 2, 3, 4, 5]
    assert all("val_rmse" in report and "val_share_of_none" not in report for report in reports)


def auroc_of_blue(kept: Kept) -> float:
    return float(roc_auc_score(kept["picked"] == 0, kept["chance_of_blue"]))


def by_auroc(spoilt: Callable[[int], bool]) -> Family:
    """The toy with an AUROC as its metric, which rejects NaN; its weights are NaN after `spoilt` epochs."""
    epochs = 0

    def evaluate(network: toy.Network, batch: Tensor) -> BatchMetrics:
        kept = {"picked": batch[:, 2].long(), "chance_of_blue": network.logits(batch).softmax(1)[:, 0]}
        return dataclasses.replace(network.evaluate(batch), kept=kept)

    def update_statistics(network: toy.Network, data: Prepared, schema: Any) -> None:
        nonlocal epochs
        epochs += 1
        if spoilt(epochs):
            torch.nn.init.constant_(next(network.parameters()), math.nan)

    metric = Metric("auroc_of_blue", "max", compute=auroc_of_blue)
    return dataclasses.replace(
        toy.FAMILY, metric=metric, metrics=(), evaluate=evaluate, update_statistics=update_statistics
    )


def test_a_diverged_network_is_rolled_back_instead_of_scored(toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(by_auroc(lambda epochs: epochs == 2), toy_data, tmp_path / "run")

    assert [report["epoch"] for report in reports] == [0, 1, 2, 3, 4, 5]
    assert checkpoints.read_progress(tmp_path / "run", 5).rate_scale == 0.5
    assert result.metrics["val_auroc_of_blue"] > 0.8

    with pytest.raises(TrainingDiverged, match="two halvings"):
        train(by_auroc(lambda epochs: epochs > 1), toy_data, tmp_path / "lost")


def test_outputs_kept_in_half_precision_are_scored(context: Context, toy_data: Prepared, tmp_path: Path) -> None:
    def evaluate(network: toy.Network, batch: Tensor) -> BatchMetrics:
        found = BY_RMSE.evaluate(network, batch)
        return dataclasses.replace(found, kept={**found.kept, "error": found.kept["error"].bfloat16()})

    half = dataclasses.replace(BY_RMSE, evaluate=evaluate)
    model = write_toy_model(TOY, toy_data, tmp_path / "model")

    values = [
        score(context, load_model(model, family), data=toy_data, split="val").value(RMSE) for family in (half, BY_RMSE)
    ]

    assert values[0] == pytest.approx(values[1], rel=0.01)


def test_an_evaluation_has_intervals_for_the_split_and_for_each_slice(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    model = write_toy_model(toy, toy_data, tmp_path / "model", tilt=1.0)
    options = evaluate.Options(model=str(model), bootstrap=400, report=str(tmp_path / "report"))

    outcome = evaluate.run(context, BY_MACRO_F1, options, None)

    scores = score(context, load_model(model, BY_MACRO_F1), data=toy_data, split="test")
    low, high = direct_bootstrap(scores.kept["picked"], scores.kept["predicted"])
    assert outcome.metrics["test_macro_f1"] == scores.value(MACRO_F1)
    assert outcome.details["interval"] == pytest.approx([low, high], abs=0.02)
    written = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert {"macro_f1", "rmse", "accuracy"} <= set(written["metrics"])
    labels = scores.slices["warmth"]
    for row in written["slices"]["warmth"]:
        assert row["score"]["value"] == scores.value(MACRO_F1, labels == row["label"])
        assert row["score"]["low"] < row["score"]["value"] < row["score"]["high"]
    assert "Macro F1" in (tmp_path / "report" / "report.html").read_text()


def direct_bootstrap(picked: NDArray[Any], predicted: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of macro F1 from confusion matrices drawn as a whole, which needs no resampled examples."""
    counts = np.bincount(picked * 3 + predicted, minlength=9)
    drawn = np.random.default_rng(5).multinomial(counts.sum(), counts / counts.sum(), size=4000).reshape(-1, 3, 3)
    correct = np.diagonal(drawn, axis1=1, axis2=2)
    f1 = 2 * correct / np.maximum(drawn.sum(1) + drawn.sum(2), 1)
    low, high = np.quantile(f1.mean(1), [0.025, 0.975])
    return float(low), float(high)


def scores_of(error: NDArray[np.float64], *, slices: NDArray[np.str_] | None = None) -> Scores:
    """Scores with the given errors; the accuracy is the fraction of errors below 1."""
    right = (np.abs(error) < 1).astype(np.float64)
    groups = {} if slices is None else {"group": slices}
    return Scores({"accuracy": right}, {"accuracy": np.ones(len(error))}, groups, {}, {"error": error}, len(error))


def test_the_interval_of_a_whole_split_metric_is_as_wide_as_theory_says() -> None:
    error = np.random.default_rng(0).normal(0, 2, 800)

    found = metric_interval(scores_of(error), RMSE, num_resamples=1000, seed=0)

    # Delta method: the standard deviation of a root is that of its argument over twice the root.
    deviation = np.square(error).std() / (2 * found.value * math.sqrt(len(error)))
    assert found.value == pytest.approx(math.sqrt(np.square(error).mean()))
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.12)
    assert found.low < found.value < found.high


def test_a_whole_split_metric_gets_fewer_resamples_on_a_large_split() -> None:
    calls = 0

    def counting_mean(kept: Kept) -> float:
        nonlocal calls
        calls += 1
        return float(kept["error"].mean())

    scores = scores_of(np.zeros(MAX_COMPUTED_EXAMPLES // 250))
    metric_interval(scores, Metric("mean", "min", compute=counting_mean), num_resamples=1000, seed=0)

    assert calls == 1 + 250


@pytest.mark.parametrize("family", [TOY, BY_RMSE], ids=["ratio", "whole split"])
def test_the_gate_has_its_nominal_false_positive_rate(family: Family) -> None:
    p_value, trials, promoted = 0.05, 300, 0
    draw = np.random.default_rng(11)

    for _ in range(trials):
        shared = draw.normal(0, 1, 150)
        candidate, champion = (scores_of(shared + draw.normal(0, 1, 150)) for _ in range(2))
        limits = Limits(p_value=p_value, num_resamples=200)
        promoted += check_better(family, candidate, champion, name="champion", limits=limits).passed

    # At most four standard deviations of a binomial above the level, and not so strict that none passes.
    assert 1 <= promoted <= trials * p_value + 4 * math.sqrt(trials * p_value * (1 - p_value))


@pytest.mark.parametrize("family", [TOY, BY_RMSE], ids=["ratio", "whole split"])
def test_a_candidate_that_is_truly_better_is_promoted(family: Family) -> None:
    draw = np.random.default_rng(2)
    shared = draw.normal(0, 1, 400)
    candidate, champion = (scores_of(shared + draw.normal(0, noise, 400)) for noise in (0.5, 1.5))

    found = check_better(family, candidate, champion, name="champion", limits=Limits(num_resamples=1000))
    reverse = check_better(family, champion, candidate, name="champion", limits=Limits(num_resamples=1000))

    assert found.passed and not reverse.passed


def test_models_are_compared_on_the_same_resamples() -> None:
    error = np.random.default_rng(4).normal(0, 1, 300)

    found = compare_scores(RMSE, scores_of(error * 0.98), scores_of(error), num_resamples=500, seed=0)

    assert found.difference < 0 and found.high < 0, "a small consistent gain must be significant"
    assert found.p_value < 0.01


def test_a_slice_may_not_drop_in_a_whole_split_metric() -> None:
    groups = np.repeat(["better", "worse", "few"], [400, 400, 20])
    error = np.random.default_rng(6).normal(0, 1, len(groups))
    factor = {"better": 0.5, "worse": 1.4, "few": 5.0}

    checks = check_slices(
        BY_RMSE,
        scores_of(error * np.array([factor[group] for group in groups]), slices=groups),
        scores_of(error, slices=groups),
        limits=Limits(),
    )

    assert {check.name: check.passed for check in checks} == {
        "slice group = better": True,
        "slice group = worse": False,
    }


@pytest.mark.parametrize("name", FAMILIES_BY_METRIC)
def test_promotion_uses_the_whole_split_metric(
    name: str, context: Context, toy: Family, toy_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slices have a test of their own, and scikit-learn takes a millisecond for each F1.
    monkeypatch.setattr(bootstrap, "MAX_COMPUTED", 200)
    family = dataclasses.replace(FAMILIES_BY_METRIC[name], gate=Gate(min_slice_examples=1000))
    good = write_toy_model(toy, toy_data, tmp_path / "good")
    middling = write_toy_model(toy, toy_data, tmp_path / "middling", tilt=1.5)

    def run(model: Path) -> Any:
        return promote.run(context, family, promote.Options(model=str(model), bootstrap=1000), None)

    assert run(middling).status == "promoted"
    assert run(good).details["checks"][0].startswith(f"{name} ")
    with pytest.raises(GateNotMet, match=f"{name} .* not significantly better than champion 2"):
        run(middling)


@pytest.mark.ray
def test_a_sweep_keeps_the_trial_with_the_lowest_error(
    ray_cluster: None, toy_data: Prepared, context: Context, tmp_path: Path
) -> None:
    outcome = sweep.run(context, BY_RMSE, sweep.Options(trials=3), toy.Config(epochs=2))

    children = [run for run in Tracking(context).list_runs("toy") if run.parent_run_id == outcome.run_id]
    found = [child.metrics["best_val_rmse"] for child in children]
    assert len(found) == 3 and len(set(found)) > 1
    assert outcome.metrics["val_rmse"] == min(found)
