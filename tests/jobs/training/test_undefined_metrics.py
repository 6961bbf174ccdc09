"""Metrics that are undefined, fail or have the wrong number of rows: in training, evaluation, sweeps and the gate."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs import evaluate, promote, sweep
from jobs.cli.context import Context
from jobs.evaluation.bootstrap import compare_scores
from jobs.evaluation.gate import check_better
from jobs.evaluation.slice_gate import Limits, check_slices
from jobs.tracking.client import Tracking
from jobs.training import checkpoints
from jobs.training.distributed import WorkerContext
from jobs.training.loop import Result, run_training
from models.evaluate import Model, Scores, evaluate_shard
from models.family import Dataset, Family, Gate, Schema
from models.metrics import BatchMetrics, Kept, Metric, Ratio
from models.prepared import Prepared
from tests.kit import toy
from tests.kit.gloo import run_workers
from tests.kit.register import TOY
from tests.kit.toy_models import write_toy_model

Reports = list[dict[str, float | int]]


def correlation(kept: Kept) -> float:
    """Correlation of the first logit with whether blue was picked; NaN for a constant network."""
    logit, is_blue = kept["logit"], kept["picked"] == 0
    return float(np.corrcoef(logit, is_blue)[0, 1]) if logit.std() > 0 and is_blue.std() > 0 else math.nan


def keep_logits(network: toy.Network, batch: Tensor) -> BatchMetrics:
    kept = {"logit": network.logits(batch)[:, 0].double(), "picked": batch[:, 2].long()}
    return dataclasses.replace(network.evaluate(batch), kept=kept)


class ConstantAtFirst(toy.Network):
    """The toy's network, which gives every visitor the same logits until it is trained."""

    def __init__(self, config: toy.Config, schema: Schema) -> None:
        super().__init__(config, schema)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)


CORRELATION = Metric("correlation", "max", "Correlation", "Of the logit of blue with blue.", compute=correlation)
BY_CORRELATION = dataclasses.replace(
    TOY, metric=CORRELATION, metrics=[TOY.metric], evaluate=keep_logits, build=ConstantAtFirst, gate=Gate(0.1, 1000)
)


def train(family: Family, data: Prepared, directory: Path, **fields: Any) -> tuple[Reports, Result]:
    reports: Reports = []
    config = toy.Config(**{"epochs": 2, "learning_rate": 0.05, **fields})
    worker = WorkerContext()
    result = run_training(family, config=config, data=data, directory=directory, worker=worker, report=reports.append)
    return reports, result


def test_an_undefined_metric_before_training_counts_as_the_worst(toy_data: Prepared, tmp_path: Path) -> None:
    reports, result = train(BY_CORRELATION, toy_data, tmp_path / "run")

    assert not {"val_correlation", "best_val_correlation"} & reports[0].keys()
    assert reports[0]["val_accuracy"] > 0
    assert result.best_epoch > 0 and result.metrics["val_correlation"] == reports[-1]["best_val_correlation"]
    written = [*(tmp_path / "run").rglob("*.json")]
    assert written and not [path for path in written if "NaN" in path.read_text()]


def test_a_count_based_network_with_an_undefined_metric_is_trained_and_resumed(
    toy_data: Prepared, tmp_path: Path
) -> None:
    reports, result = train(BY_CORRELATION, toy_data, tmp_path / "run", network="majority")
    again, _ = train(BY_CORRELATION, toy_data, tmp_path / "run", network="majority")

    assert [report["epoch"] for report in reports] == [0] and again == reports
    assert result.best_epoch == 0 and "val_correlation" not in result.metrics
    assert checkpoints.read_progress(tmp_path / "run", 0).best_score is None


def test_a_metric_that_evaluate_never_returns_is_named_with_what_it_returns(toy_data: Prepared, tmp_path: Path) -> None:
    family = dataclasses.replace(TOY, metric=Metric("recall", "max"), metrics=[TOY.metric])

    with pytest.raises(ValueError, match="toy does not return its metric recall; it returns the ratios accuracy"):
        train(family, toy_data, tmp_path / "run")


def test_a_metric_that_reads_what_evaluate_does_not_keep_is_named(toy_data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric correlation .* reads 'logit', and `evaluate` keeps nothing"):
        train(dataclasses.replace(BY_CORRELATION, evaluate=TOY.evaluate), toy_data, tmp_path / "run")


def test_a_metric_of_which_no_example_counts_is_an_error(toy_data: Prepared, tmp_path: Path) -> None:
    def count_none(network: toy.Network, batch: Tensor) -> BatchMetrics:
        none = torch.zeros(len(batch))
        return dataclasses.replace(network.evaluate(batch), ratios={"accuracy": Ratio(none, none)})

    with pytest.raises(ValueError, match=r"accuracy is undefined on the validation split .* no example counts"):
        train(dataclasses.replace(TOY, evaluate=count_none), toy_data, tmp_path / "run")


def test_a_value_error_of_a_whole_split_metric_names_the_metric(toy_data: Prepared, tmp_path: Path) -> None:
    def fail(kept: Kept) -> float:
        raise ValueError("only one class present")

    family = dataclasses.replace(BY_CORRELATION, metric=Metric("auroc", "max", compute=fail))
    with pytest.raises(ValueError, match="the metric auroc cannot be computed: only one class present"):
        train(family, toy_data, tmp_path / "run")


def scores_of(
    logit: NDArray[np.floating[Any]], picked: NDArray[np.int64], groups: NDArray[np.str_] | None = None
) -> Scores:
    slices = {} if groups is None else {"group": groups}
    return Scores({}, {}, slices, {}, {"logit": logit, "picked": picked}, len(logit))


def two_models() -> tuple[Scores, Scores]:
    """A model that is right about 200 visitors, and a constant one."""
    picked = np.random.default_rng(0).integers(0, 2, 200)
    return scores_of(1.0 - picked, picked), scores_of(np.zeros(200), picked)


def test_a_defined_metric_beats_an_undefined_one_and_not_the_reverse() -> None:
    good, constant = two_models()
    check = partial(check_better, BY_CORRELATION, name="majority", limits=Limits(num_resamples=200))

    beats, loses, ties = check(good, constant), check(constant, good), check(constant, constant)

    assert (beats.passed, loses.passed, ties.passed) == (True, False, False)
    assert beats.message == "correlation 1.00000 is better than majority's, which is undefined"
    assert "correlation of the candidate is undefined" in loses.message
    assert "NaN" not in json.dumps([dataclasses.asdict(each) for each in (beats, loses, ties)])
    assert compare_scores(CORRELATION, good, constant, num_resamples=200, seed=0).p_value < 0.01
    assert compare_scores(CORRELATION, constant, good, num_resamples=200, seed=0).p_value == 1.0


def test_a_slice_fails_where_only_the_candidate_is_undefined() -> None:
    good, constant = two_models()
    groups = np.repeat(["first", "second"], 100)
    family = dataclasses.replace(BY_CORRELATION, gate=Gate())
    good, constant = (dataclasses.replace(each, slices={"group": groups}) for each in (good, constant))

    assert {check.passed for check in check_slices(family, constant, good, limits=Limits())} == {False}
    assert not [check for check in check_slices(family, good, constant, limits=Limits()) if not check.passed]


def test_a_resample_in_which_a_metric_fails_does_not_take_a_comparison_down() -> None:
    def strict(kept: Kept) -> float:
        if len(np.unique(kept["picked"])) < 2:
            raise ValueError("only one class present")
        return float(np.corrcoef(kept["logit"], kept["picked"] == 0)[0, 1])

    picked = np.array([0] + [1] * 19)
    draw = np.random.default_rng(1)
    models = [
        scores_of(np.asarray(1.0 - picked + noise * draw.normal(size=20), np.float64), picked) for noise in (0.1, 1.0)
    ]

    found = compare_scores(Metric("strict", "max", compute=strict), *models, num_resamples=200, seed=0)

    assert found.difference > 0 and 0.2 < found.p_value < 0.6, "a third of the resamples have one class"


def test_a_trained_model_is_evaluated_and_promoted_over_a_constant_baseline(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    model = str(write_toy_model(toy, toy_data, tmp_path / "model"))

    options = evaluate.Options(model=model, bootstrap=100, report=str(tmp_path / "report"))
    outcome = evaluate.run(context, BY_CORRELATION, options, None)
    promoted = promote.run(context, BY_CORRELATION, promote.Options(model=model, bootstrap=1000), None)

    assert outcome.metrics["test_correlation"] > 0 and outcome.details["baselines"] == {"majority": {}}
    assert "correlation" in json.loads((tmp_path / "report" / "evaluation.json").read_text())["metrics"]
    assert promoted.status == "promoted"
    assert "better than majority's, which is undefined" in promoted.details["checks"][0]


@pytest.mark.ray
def test_a_sweep_goes_on_after_an_undefined_metric(ray_cluster: None, toy_data: Prepared, context: Context) -> None:
    outcome = sweep.run(context, BY_CORRELATION, sweep.Options(trials=2), toy.Config(epochs=2))

    children = [run for run in Tracking(context).list_runs("toy") if run.parent_run_id == outcome.run_id]
    assert len(children) == 2 and all(-1 <= run.metrics["best_val_correlation"] <= 1 for run in children)
    assert -1 <= outcome.metrics["val_correlation"] <= 1


def cut(metrics: BatchMetrics) -> BatchMetrics:
    return dataclasses.replace(metrics, kept={"logit": metrics.kept["logit"][1:], "picked": metrics.kept["picked"]})


def cut_numerator(metrics: BatchMetrics) -> BatchMetrics:
    ratio = metrics.ratios["accuracy"]
    return dataclasses.replace(metrics, ratios={"accuracy": Ratio(ratio.numerator[1:], ratio.denominator)})


def cut_denominator(metrics: BatchMetrics) -> BatchMetrics:
    ratio = metrics.ratios["accuracy"]
    return dataclasses.replace(metrics, ratios={"accuracy": Ratio(ratio.numerator, ratio.denominator[:1])})


def average(metrics: BatchMetrics) -> BatchMetrics:
    ratio = metrics.ratios["accuracy"]
    return dataclasses.replace(metrics, ratios={"accuracy": Ratio(ratio.numerator.mean(), ratio.denominator)})


def labels_of_two(batch: Tensor, schema: Schema) -> Mapping[str, Sequence[str]]:
    return {"warmth": ["warm", "cold"]}


def evaluating(change: Callable[[BatchMetrics], BatchMetrics]) -> dict[str, Any]:
    return {"evaluate": lambda network, batch: change(keep_logits(network, batch))}


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (evaluating(cut), "`evaluate` of toy keeps values with {fewer} rows for logit, .* from {size} examples"),
        (evaluating(cut_numerator), "toy gives a numerator with {fewer} rows for the ratio accuracy, .* {size} exam"),
        (evaluating(cut_denominator), "toy gives a denominator with 1 rows for the ratio accuracy, .* {size} examples"),
        (evaluating(average), r"numerator of shape \[\] for the ratio accuracy of a batch of {size} examples"),
        ({"slices": labels_of_two}, "`slices` of toy gives labels with 2 rows for warmth, .* from {size} examples"),
        (
            {"collate": lambda examples: toy.collate(examples[1:]), "slices": lambda batch, schema: {}},
            "with {fewer} rows for the ratio accuracy, .* from {size} examples",
        ),
    ],
    ids=["kept", "numerator", "denominator", "scalar", "slices", "collate"],
)
def test_a_wrong_number_of_rows_is_refused_with_both_numbers(
    members: dict[str, Any], named: str, toy_data: Prepared
) -> None:
    family = dataclasses.replace(BY_CORRELATION, **members)
    schema = toy_data.schema(Schema)
    size = len(toy.dataset(toy_data, "val", [0], schema=schema, config=toy.Config(), epoch=0))
    model = Model(family, toy.Config(), schema, toy.Network(toy.Config(), schema))

    with pytest.raises(ValueError, match=named.format(size=size, fewer=size - 1)):
        evaluate_shard(model, toy_data, "val", 0)


def test_every_batch_must_give_the_same_metrics(toy_data: Prepared, tmp_path: Path) -> None:
    sizes: list[int] = []

    def change_names(network: toy.Network, batch: Tensor) -> BatchMetrics:
        sizes.append(len(batch))
        found = network.evaluate(batch)
        extra = {"extra": found.ratios["accuracy"]} if len(sizes) == 1 else {}
        return dataclasses.replace(found, ratios={**found.ratios, **extra})

    with pytest.raises(ValueError, match="the same names for every batch; 'extra', one of the ratios, is missing"):
        train(dataclasses.replace(TOY, evaluate=change_names), toy_data, tmp_path / "run")


def unequal(
    data: Prepared, split: str, shards: Sequence[int], *, schema: Schema, config: toy.Config, epoch: int
) -> Dataset[toy.Visitor]:
    """The toy's data, but the second of two workers has a single example for training."""
    found = toy.dataset(data, split, shards, schema=schema, config=config, epoch=epoch)
    if split != "train":
        return found
    every = toy.dataset(data, split, range(4), schema=schema, config=config, epoch=epoch)
    kept = {(0, 1, 2, 3): slice(0, 110), (0, 2): slice(0, 109), (1, 3): slice(109, 110)}[tuple(shards)]
    return [every[row] for row in range(len(every))][kept]


UNEQUAL = dataclasses.replace(TOY, dataset=unequal)
STILL = toy.Config(epochs=1, batch_size=2, learning_rate=1e-12, weight_decay=0.0)


def train_still(data: Prepared, rank: int, world_size: int, directory: Path) -> None:
    """Train one epoch almost without a learning rate, and write its loss."""
    reports: Reports = []
    worker = WorkerContext(rank=rank, world_size=world_size)
    path = directory / f"of-{world_size}"
    run_training(UNEQUAL, config=STILL, data=data, directory=path, worker=worker, report=reports.append)
    (directory / f"{rank}-of-{world_size}.json").write_text(json.dumps(reports[-1]["train_loss"]))


def test_the_training_loss_is_the_same_where_a_worker_repeats_its_example(toy_data: Prepared, tmp_path: Path) -> None:
    train_still(toy_data, 0, 1, tmp_path)
    run_workers(partial(train_still, toy_data), 2, tmp_path)

    alone, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    assert first == second == pytest.approx(alone, rel=1e-4)
