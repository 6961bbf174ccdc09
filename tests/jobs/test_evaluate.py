"""Evaluation: every example counts once, intervals have their coverage, and the report matches the metrics."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jobs import evaluate
from jobs.cli.context import Context, UsageFailure
from jobs.evaluation.bootstrap import MAX_UNITS, compare_scores, score_intervals
from jobs.evaluation.charts import Bar, bars
from jobs.evaluation.scoring import load_model, score
from models import FAMILIES
from models.errors import BundleRejected
from models.evaluate import Scores
from models.family import Family
from models.metrics import BatchMetrics, Metric, Ratio, described
from models.prepared import Prepared
from models.report import Content, Gallery, Matrix, Picture, Plot, Section, Table
from tests.kit.register import TOY
from tests.kit.toy_models import write_toy_model

DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
"""A PNG with one pixel."""


@pytest.fixture
def model(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "model")


def test_a_model_is_evaluated_on_every_example_of_the_split_once(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    scores = score(context, load_model(model, toy), data=toy_data, split="test")
    schema = toy_data.schema(toy.Schema)
    rows = np.concatenate([np.load(toy_data.path / f"test-{shard}.npy") for shard in range(4)])
    answers = (rows[:, :2] @ np.array([[0, -1], [-1, 1], [1, 1]]).T + [0.3, 0, 0]).argmax(1)
    assert scores.num_examples == schema.num_examples["test"] == len(rows)
    assert scores.ratio("accuracy") == pytest.approx((answers == rows[:, 2]).mean())
    assert int(scores.accumulators["picked"].sum()) == len(rows)


@pytest.mark.ray
def test_one_two_and_three_workers_give_the_same_bits(
    context: Context, toy: Family, toy_data: Prepared, model: Path, ray_cluster: None
) -> None:
    loaded = load_model(model, toy)
    alone, two, three = (score(context, loaded, data=toy_data, split="val", num_workers=n) for n in (1, 2, 3))
    assert_same_bits(alone, two)
    assert_same_bits(alone, three)


def test_one_and_three_threads_give_the_same_bits(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    found = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        try:
            found.append(score(context, load_model(model, toy), data=toy_data, split="val"))
            assert torch.get_num_threads() == num_threads
        finally:
            torch.set_num_threads(1)

    assert_same_bits(*found)


def assert_same_bits(one: Scores, other: Scores) -> None:
    """Fail if two scorings of the toy differ in any bit."""
    assert one.values(TOY.all_metrics) == other.values(TOY.all_metrics)
    for name, numerators in one.numerators.items():
        assert np.array_equal(numerators, other.numerators[name])
    assert all((one.slices[name] == other.slices[name]).all() for name in one.slices)
    assert one.accumulators["picked"].equal(other.accumulators["picked"])


def scores_of(values: NDArray[np.float64]) -> Scores:
    """Scores whose metric `m` is the mean of the values."""
    return Scores({"m": values}, {"m": np.ones(len(values))}, {}, {}, {}, len(values))


def test_an_example_with_a_zero_denominator_does_not_count() -> None:
    scores = Scores({"m": np.array([1.0, 0.0, 5.0])}, {"m": np.array([1.0, 1.0, 0.0])}, {}, {}, {}, 3)
    assert scores.ratio("m", np.array([True, True, False])) == 0.5
    assert math.isnan(scores.ratio("m", np.array([False, False, True])))


@pytest.mark.parametrize("num_examples", [400, 3 * MAX_UNITS])
def test_a_95_percent_interval_is_as_wide_as_theory_says(num_examples: int) -> None:
    correct = (np.random.default_rng(1).random(num_examples) < 0.3).astype(float)
    found = score_intervals(scores_of(correct), [], num_resamples=2000, seed=0)["m"]
    mean = correct.mean()
    half_width = 1.96 * math.sqrt(mean * (1 - mean) / num_examples)
    assert found.value == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * half_width, rel=0.12)
    assert found.low < mean < found.high


def test_an_interval_has_its_nominal_coverage() -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        values = draw.exponential(size=150)
        found = score_intervals(scores_of(values), [], num_resamples=300, seed=trial)["m"]
        covered += found.low <= 1.0 <= found.high
    assert 178 <= covered <= 199


def test_a_small_consistent_gain_is_significant_and_noise_is_not() -> None:
    draw = np.random.default_rng(3)
    before = draw.random(500)
    gain, better = Metric("m", "max"), scores_of(before + 0.01)
    steady = compare_scores(gain, better, scores_of(before), num_resamples=1000, seed=0)
    noisy = scores_of(before + draw.normal(0, 0.5, 500))
    noise = compare_scores(gain, noisy, scores_of(before), num_resamples=1000, seed=0)
    lower_is_better = compare_scores(Metric("m", "min"), better, scores_of(before), num_resamples=1000, seed=0)
    same = compare_scores(gain, scores_of(before), scores_of(before), num_resamples=1000, seed=0)
    assert steady.p_value < 0.01 < 0.05 < noise.p_value
    assert lower_is_better.p_value == same.p_value == 1.0


def test_evaluate_writes_a_report_and_the_same_numbers_as_json(
    context: Context, toy: Family, toy_data: Prepared, model: Path, tmp_path: Path
) -> None:
    options = evaluate.Options(model=str(model), bootstrap=200, report=str(tmp_path / "report"))
    outcome = evaluate.run(context, toy, options, None)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    numbers = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))
    assert outcome.metrics["test_accuracy"] == numbers["metrics"]["accuracy"]["value"] > 0.85
    assert outcome.metrics["test_colours_picked"] == 1.0
    assert numbers["baselines"]["majority"]["accuracy"]["value"] < 0.6
    assert {row["label"] for row in numbers["slices"]["warmth"]} == {"warm", "cold"}
    assert f"{outcome.metrics['test_accuracy']:.4f}" in page
    assert "majority" in page and "warmth" in page.lower() and "shopkeeper evaluate toy --model" in page


def test_the_report_says_how_many_examples_count_for_the_metric(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    def without_dark(network: Any, batch: torch.Tensor) -> BatchMetrics:
        found = toy.evaluate(network, batch)
        ratio, counts = found.ratios["accuracy"], batch[:, 1] > 0
        return dataclasses.replace(found, ratios={"accuracy": Ratio(ratio.numerator * counts, counts.double())})

    options = evaluate.Options(model=str(model), bootstrap=100)
    outcome = evaluate.run(context, dataclasses.replace(toy, evaluate=without_dark), options, None)

    rows = np.concatenate([np.load(toy_data.path / f"test-{shard}.npy") for shard in range(4)])
    warm, bright = rows[:, 0] > 0, rows[:, 1] > 0
    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    numbers = json.loads(Path(outcome.details["numbers"]).read_text(encoding="utf-8"))
    groups = {row["label"]: (row["num_counted"], row["num_examples"]) for row in numbers["slices"]["warmth"]}
    assert (numbers["num_counted"], numbers["num_examples"]) == (bright.sum(), len(rows))
    assert groups == {"warm": ((warm & bright).sum(), warm.sum()), "cold": ((~warm & bright).sum(), (~warm).sum())}
    assert f"; {bright.sum()} of {len(rows)} held-out examples count for it" in page
    assert outcome.details["num_counted"] == bright.sum() < len(rows)


def test_the_report_gives_one_number_of_examples_if_all_count(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    outcome = evaluate.run(context, toy, evaluate.Options(model=str(model), bootstrap=100), None)
    assert "count for it" not in Path(outcome.details["report"]).read_text(encoding="utf-8")


def test_a_family_s_sections_are_in_the_report_the_json_and_the_metrics(
    context: Context, toy: Family, toy_data: Prepared, model: Path
) -> None:
    outcome = evaluate.run(
        context, dataclasses.replace(toy, report=sections), evaluate.Options(model=str(model), bootstrap=100), None
    )
    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    (found,) = json.loads(Path(outcome.details["numbers"]).read_text(encoding="utf-8"))["sections"]
    assert outcome.metrics["test_hue"] == found["numbers"]["hue"] == 0.25
    assert found["tables"]["hues"] == [{"hue": "<b>", "share": 0.123456, "seen": 1234}]
    assert found["matrices"] == [{"title": "Confusions", "names": ["<i>", "you & me"], "counts": [[3, 1], [0, 2]]}]
    assert "<h2>Hues &amp; more</h2><p>Read it from the left.</p>" in page
    assert '<td class="text">&lt;b&gt;</td><td>0.123</td><td>1,234</td>' in page and "<b>3</b>" in page
    assert f'alt="a &quot;dot&quot;" src="data:image/png;base64,{base64.b64encode(DOT).decode()}"' in page
    assert page.count('class="shape p0"') == 3 and page.count('class="shape p1"') == 2  # with one each in the key
    assert not re.search(r"<script|<link|href=|url\(|src=(?!\"data:image/)", page)


def sections(network: Any, data: Prepared, split: str, *, schema: Any, config: Any) -> list[Section]:
    """Report sections with every kind of content, and names that need HTML escapes."""
    assert (
        (split, config.network) == ("test", "linear") and not network.training and (data.path / "schema.json").is_file()
    )
    picture = Picture(DOT, 'a "dot"', "one <dot>")
    content: list[Content] = [
        Table("hues", ["hue", "share", "seen", "example"], [["<b>", 0.123456, 1234, (picture,)]]),
        Matrix(["<i>", "you & me"], [[3, 1], [0, 2]], "label", "prediction", title="Confusions"),
        Plot("Two <kinds>", {"a": [(0.0, 0.5), (1.0, 1.0)], "none": [], "b": [(0.5, 0.5)]}, ("x", "y"), joined=True),
        Gallery([picture]),
        "A <last> word.",
    ]
    return [Section("Hues & more", "Read it from the left.", content, {"hue": 0.25})]


def test_the_report_is_self_contained(context: Context, toy: Family, toy_data: Prepared, model: Path) -> None:
    outcome = evaluate.run(context, toy, evaluate.Options(model=str(model), bootstrap=100), None)
    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=|url\(|@import|<script|<link""", page)
    assert "prefers-color-scheme" in page


def test_an_evaluation_is_reproducible(context: Context, toy: Family, toy_data: Prepared, model: Path) -> None:
    options = evaluate.Options(model=str(model), split="val", bootstrap=100)
    first, second = (
        json.loads(Path(evaluate.run(context, toy, options, None).details["numbers"]).read_text()) for _ in "12"
    )
    assert {**first, "created": ""} == {**second, "created": ""}


def test_a_modified_model_is_rejected(context: Context, toy: Family, toy_data: Prepared, model: Path) -> None:
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleRejected, match=r"model\.safetensors differs from its manifest"):
        evaluate.run(context, toy, evaluate.Options(model=str(model)), None)


def test_a_pickle_instead_of_a_model_is_rejected(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleRejected, match=r"no MANIFEST\.json \(found: model\.pkl\)"):
        evaluate.run(context, toy, evaluate.Options(model=str(tmp_path / "old")), None)


def test_a_missing_directory_is_named(context: Context, toy: Family, toy_data: Prepared) -> None:
    with pytest.raises(UsageFailure, match="no directory 'nowhere'"):
        evaluate.run(context, toy, evaluate.Options(model="nowhere"), None)


@pytest.mark.parametrize(
    ("name", "title"),
    [("ndcg_at_10", "NDCG@10"), ("hit_rate_at_5_unfiltered", "Hit rate@5, unfiltered"), ("tail_share", "Tail share")],
)
def test_metrics_have_a_title_for_people(name: str, title: str) -> None:
    assert described(name, FAMILIES["recommender"].all_metrics).title == title


def test_a_metric_of_a_label_is_described_by_the_metric_it_starts_with() -> None:
    found = described("accuracy_main_colour", FAMILIES["image"].all_metrics)
    assert (found.title, found.mode) == ("Accuracy, main colour", "max")


def test_bars_of_two_charts_share_a_scale() -> None:
    half, whole = (Bar(name, value, value, value) for name, value in (("half", 0.5), ("whole", 1.0)))
    charts = [bars([half], title="t", text="{}", others=others) for others in ([], [whole])]
    widths = [float(re.findall(r'class="bar model".*?width="([\d.]+)"', chart)[0]) for chart in charts]
    assert widths[0] == 2 * widths[1]


def test_only_the_largest_groups_are_expanded(context: Context, toy: Family, toy_data: Prepared, model: Path) -> None:
    def by_warmth(batch: Any, schema: Any) -> dict[str, list[str]]:
        return {"warmth": [f"about {round(10 * float(warmth))}" for warmth in batch[:, 0]]}

    outcome = evaluate.run(
        context, dataclasses.replace(toy, slices=by_warmth), evaluate.Options(model=str(model), bootstrap=100), None
    )
    page = Path(outcome.details["report"]).read_text(encoding="utf-8")
    groups = json.loads(Path(outcome.details["numbers"]).read_text(encoding="utf-8"))["slices"]["warmth"]
    shown, folded = page.split(f"<summary>{len(groups) - 15} smaller groups</summary>")
    assert len(groups) > 20 and all(f">{group['label']}</text>" in shown for group in groups[:15])
    assert all(f">{group['label']}</text>" in folded for group in groups[15:])
