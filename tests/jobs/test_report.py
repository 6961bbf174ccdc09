"""The report: how many examples count for each metric, groups in order, the champion and the learning curve."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import evaluate, promote
from jobs.cli.context import Context
from jobs.evaluation.charts import Bar, bars, lines
from jobs.tracking.client import BUNDLE, TAG_FINGERPRINT, Tracking
from models.family import Family
from models.metrics import BatchMetrics, Ratio
from models.prepared import Prepared
from tests.kit.bundles import write_bundle
from tests.kit.toy_models import write_toy_model


@pytest.fixture
def model(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "model")


def evaluated(context: Context, family: Family, model: str | Path) -> tuple[str, dict[str, Any]]:
    """The page and the numbers of an evaluation."""
    outcome = evaluate.run(context, family, evaluate.Options(model=str(model), bootstrap=200), None)
    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    return page, json.loads(Path(outcome.details["numbers"]).read_text(encoding="utf-8"))


def test_each_metric_has_the_number_of_examples_that_count_for_it(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    def with_bright(network: Any, batch: torch.Tensor) -> BatchMetrics:
        found = toy.evaluate(network, batch)
        ratio, counts = found.ratios["accuracy"], (batch[:, 1] > 0).double()
        bright = Ratio(ratio.numerator * counts, counts)
        return dataclasses.replace(found, ratios={**found.ratios, "accuracy_bright": bright})

    page, numbers = evaluated(context, dataclasses.replace(toy, evaluate=with_bright), model)

    counted = numbers["counted"]
    assert counted.keys() == {"accuracy", "accuracy_bright"}
    assert 0 < counted["accuracy_bright"] < counted["accuracy"] == numbers["num_examples"]
    assert all(f"<td>{count:,}</td>" in page for count in counted.values())


def test_groups_are_in_the_family_s_order_and_others_before_them_by_size(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    def slices(batch: Any, schema: Any) -> dict[str, list[str]]:
        names = ["few" if warm > 1 else "many" if warm > 0 else "cool" if warm > -1 else "cold" for warm in batch[:, 0]]
        return {"heat": names}

    family = dataclasses.replace(toy, slices=slices, slice_order=("cold", "cool"))

    _, numbers = evaluated(context, family, model)

    rows = {row["label"]: row["num_examples"] for row in numbers["slices"]["heat"]}
    assert list(rows) == ["many", "few", "cold", "cool"]
    assert rows["many"] > rows["few"] and rows["cold"] < rows["cool"]


def test_another_model_is_shown_beside_the_champion(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    promote.run(context, toy, promote.Options(model=str(model), bootstrap=1000), None)
    other = write_toy_model(toy, toy_data, tmp_path / "other", tilt=1.0)

    page, numbers = evaluated(context, toy, other)
    own_page, own = evaluated(context, toy, "models:/toy@champion")

    assert numbers["champion"]["model"] == "models:/toy/1" and numbers["champion"]["comparison"]["difference"] < 0
    assert numbers["champion"]["metrics"]["accuracy"] == own["metrics"]["accuracy"]
    assert all(row["champion"] is not None for row in numbers["slices"]["warmth"])
    assert (
        "This is worse than the champion, models:/toy/1" in page and "<h2>Compared with champion and baselines" in page
    )
    assert own["champion"] is None and "the champion" not in own_page


def test_a_champion_that_cannot_be_loaded_is_left_out(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promote.run(context, toy, promote.Options(model=str(model), bootstrap=1000), None)
    for file in context.store.artifacts.rglob("model.safetensors"):
        file.write_bytes(b"")
    caplog.set_level("WARNING", logger="shopkeeper")

    _, numbers = evaluated(context, toy, write_toy_model(toy, toy_data, tmp_path / "other", tilt=1.0))

    assert numbers["champion"] is None


def test_the_learning_curve_is_that_of_the_tracked_run(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={TAG_FINGERPRINT: toy_data.fingerprint})
    for epoch, (loss, accuracy) in enumerate([(2.5, 0.5), (1.5, 0.75), (1.25, 0.7)], 1):
        run.log_metrics({"train_loss": loss, "val_accuracy": accuracy}, step=epoch)
    run.log_artifacts(model, BUNDLE)
    run.end("FINISHED")

    page, numbers = evaluated(context, toy, f"runs:/{run.run_id}")

    curve = numbers["learning_curve"]
    assert curve == {"train_loss": [[1, 2.5], [2, 1.5], [3, 1.25]], "val_accuracy": [[1, 0.5], [2, 0.75], [3, 0.7]]}
    assert "<h2>Learning curve</h2>" in page and "Training loss by epoch" in page and "Accuracy on validation" in page


def test_a_model_of_other_data_is_said_to_be_one(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    schema = toy_data.schema(toy.Schema).model_copy(update={"fingerprint": "0" * 64})
    config = toy.Config(network="linear")
    other = write_bundle(toy, tmp_path / "other", network=toy.build(config, schema), schema=schema, config=config)
    sentence = "The model was trained on other prepared data"

    assert sentence in evaluated(context, toy, other)[0]
    assert sentence not in evaluated(context, toy, model)[0]


def test_a_model_without_a_run_has_no_learning_curve(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    page, numbers = evaluated(context, toy, model)

    assert numbers["learning_curve"] == {} and "Learning curve" not in page


def test_bars_have_marks_and_their_values_are_readable_without_seeing_them() -> None:
    chart = bars(
        [Bar("tail", 0.5, 0.4, 0.6, marks={"mark": 0.3, "mark champion": 0.7})], title="By group", text="{:.2f}"
    )

    assert chart.count('class="mark"') == chart.count('class="mark champion"') == 1
    assert 'aria-label="By group. tail: 0.50"' in chart and "<title>By group</title>" in chart


def test_a_line_may_be_on_a_scale_without_zero() -> None:
    points = {"loss": {epoch: 7.0 - epoch / 100 for epoch in range(1, 41)}}

    whole, close = (lines(points, title="t", axis="epoch", from_zero=each) for each in (True, False))

    assert ">0</text>" in whole and ">0</text>" not in close
    assert close.count('text-anchor="middle"') < 20, "not every epoch has a label"


def test_the_scale_of_equal_values_is_close_to_them() -> None:
    chart = lines({"ndcg": {1: 0.9864, 2: 0.9864}}, title="t", axis="epoch", from_zero=False)

    labels = [float(label) for label in re.findall(r'text-anchor="end"[^>]*>([^<]+)<', chart)]
    assert len(labels) == 5 and min(labels) < 0.9864 < max(labels) and max(labels) - min(labels) < 0.05
