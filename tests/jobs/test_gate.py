"""The gate: groups have a floor that no champion moves, and chance alone does not refuse a model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs import promote
from jobs.cli.context import Context, GateNotMet, UsageFailure
from jobs.evaluation.gate import References, check_quality
from jobs.evaluation.slice_gate import Check, Limits, check_slices, holm, slice_table
from jobs.tracking.client import Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import Registry
from models.evaluate import Scores
from models.family import Family, Gate
from models.prepared import Prepared
from tests.kit.register import TOY
from tests.kit.toy_models import write_toy_model

LIMITS = Limits(num_resamples=1000)
SIZES = {"head": 3000, "middle": 2000, "tail": 600}


def model(*, seed: int, **means: float) -> Scores:
    """Scores of a model with a mean gain per group, as sparse as those of NDCG@10: most examples gain nothing."""
    draw = np.random.default_rng(seed)
    gains = [gains_of(draw, means[group], size) for group, size in SIZES.items()]
    return scores(np.concatenate(gains), np.repeat(list(SIZES), list(SIZES.values())))


def gains_of(draw: np.random.Generator, mean: float, size: int) -> NDArray[np.float64]:
    """Per-example gains: 0, or one over a logarithm of a rank up to ten, as of NDCG."""
    of_rank = 1 / np.log2(np.arange(2, 12))
    ranks = draw.integers(0, 10, size)
    return np.asarray(of_rank[ranks] * (draw.random(size) < mean / of_rank.mean()))


def scores(values: NDArray[np.float64], groups: NDArray[np.str_]) -> Scores:
    """Scores of the metric of the toy family."""
    return Scores({"accuracy": values}, {"accuracy": np.ones(len(values))}, {"group": groups}, {}, {}, len(values))


def failed(checks: list[Check]) -> list[str]:
    """Names of the checks that failed."""
    return [check.name for check in checks if not check.passed]


def outcome(candidate: Scores, *, champion: Scores | None = None) -> list[str]:
    """Names of the failed checks of a candidate against the same three baselines."""
    return failed(check_quality(TOY, candidate, References(BASELINES, champion), LIMITS))


BASELINES = {
    "popularity": model(seed=1, head=0.06, middle=0.0, tail=0.0),
    "knn": model(seed=2, head=0.12, middle=0.08, tail=0.09),
    "transitions": model(seed=3, head=0.15, middle=0.1, tail=0.06),
}


def test_equal_models_are_refused_by_chance_in_one_of_twenty_gates_at_most() -> None:
    draw, trials = np.random.default_rng(5), 200
    groups = np.repeat([f"group {number}" for number in range(20)], np.geomspace(100, 800, 20).astype(int))
    adjusted = single = 0
    for _ in range(trials):
        shared = gains_of(draw, 0.1, len(groups))
        candidate, floor = (
            scores(np.where(draw.random(len(groups)) < 0.5, shared, gains_of(draw, 0.1, len(groups))), groups)
            for _ in "12"
        )
        checks = check_slices(TOY, candidate, floor, limits=LIMITS)
        assert len(checks) == 20
        adjusted += bool(failed(checks))
        single += any(check.numbers["p_value"] < 0.05 and check.numbers["gain"] < -0.1 for check in checks)

    # At most one standard deviation of a binomial above the level; without the adjustment it is many times that.
    assert adjusted <= trials * 0.05 + math.sqrt(trials * 0.05 * 0.95)
    assert single > trials * 0.3


def test_a_real_drop_of_one_big_group_below_the_floor_is_refused_also_for_a_better_model() -> None:
    candidate = model(seed=11, head=0.21, middle=0.15, tail=0.02)

    checks = check_quality(TOY, candidate, References(BASELINES), LIMITS)

    assert failed(checks) == ["slice group = tail"]
    (tail,) = [check for check in checks if check.name == "slice group = tail"]
    assert tail.numbers["floor"] == BASELINES["transitions"].value(TOY.metric, candidate.slices["group"] == "tail")
    assert tail.numbers["examples"] == 600 and tail.numbers["share"] == pytest.approx(600 / 5600)
    assert tail.numbers["gain"] < -0.4 and tail.numbers["p_value"] < tail.numbers["adjusted_p_value"] < 0.05
    assert f"against {tail.numbers['floor']:.5f} of transitions, on 600 examples" in tail.message


def test_the_order_of_promotions_does_not_decide() -> None:
    first = model(seed=21, head=0.16, middle=0.12, tail=0.12)
    second = model(seed=22, head=0.21, middle=0.16, tail=0.062)
    drop = check_slices(TOY, second, first, limits=LIMITS)

    assert outcome(first) == outcome(second) == outcome(second, champion=first) == []
    assert failed(drop) == ["slice group = tail"], "against the champion of the moment the tail fell by half"


def test_a_champion_is_shown_by_group_and_not_compared_there() -> None:
    champion = model(seed=21, head=0.16, middle=0.12, tail=0.12)
    candidate = model(seed=22, head=0.21, middle=0.16, tail=0.062)

    checks = check_quality(TOY, candidate, References(BASELINES, champion, "champion 3"), LIMITS)

    tail = next(check for check in checks if check.name == "slice group = tail")
    assert tail.numbers["champion"] == champion.value(TOY.metric, champion.slices["group"] == "tail")
    assert f" and {tail.numbers['champion']:.5f} of the champion" in tail.message
    assert [check.name for check in checks][:3] == [
        "better than champion 3",
        "better than popularity",
        "no worse than transitions",
    ]


def test_the_best_baseline_itself_may_be_champion() -> None:
    assert outcome(BASELINES["transitions"]) == []


def test_a_model_that_is_significantly_worse_than_the_best_baseline_is_refused() -> None:
    assert outcome(model(seed=31, head=0.11, middle=0.07, tail=0.05))[0] == "no worse than transitions"


def test_a_small_split_does_not_excuse_a_model_far_below_the_best_baseline() -> None:
    groups = np.full(60, "all")
    hits = {"popularity": 6, "transitions": 30, "candidate": 25}
    order = np.random.default_rng(4).permutation(60)
    few = {name: scores(np.array([float(place < number) for place in order]), groups) for name, number in hits.items()}
    candidate = few.pop("candidate")

    (check,) = [
        each
        for each in check_quality(TOY, candidate, References(few), LIMITS)
        if each.name == "no worse than transitions"
    ]

    assert check.numbers["gain"] == pytest.approx(-1 / 6) and not check.passed


def test_the_trivial_baseline_sets_no_floor() -> None:
    constant = model(seed=41, head=1.0 / 2, middle=0.0, tail=0.0)
    candidate = model(seed=42, head=0.4, middle=0.4, tail=0.4)

    checks = check_quality(TOY, candidate, References({"prior": constant}), LIMITS)

    assert [check.name for check in checks] == ["better than prior"] and checks[0].passed


def test_without_other_baselines_the_groups_are_compared_with_the_champion() -> None:
    champion = model(seed=51, head=0.2, middle=0.2, tail=0.2)
    candidate = model(seed=52, head=0.3, middle=0.3, tail=0.1)

    assert failed(check_quality(TOY, candidate, References({}, champion), LIMITS)) == ["slice group = tail"]


def test_groups_are_those_of_the_prepared_data_and_not_of_the_candidate() -> None:
    older = dataclasses.replace(BASELINES["transitions"], slices={"group": np.full(5600, "unknown")})

    names = [check.name for check in check_quality(TOY, older, References(BASELINES), LIMITS)]

    assert "slice group = tail" in names and "slice group = unknown" not in names


def test_the_groups_are_shown_as_a_table_in_the_family_s_order() -> None:
    candidate = model(seed=11, head=0.21, middle=0.15, tail=0.02)
    family = dataclasses.replace(TOY, slice_order=("tail", "head"))

    head, *rows = slice_table(check_quality(family, candidate, References(BASELINES), LIMITS), floor="transitions")

    assert head.split()[:7] == ["group", "examples", "share", "transitions", "champion", "candidate", "gain"]
    assert [row.split()[2] for row in rows] == ["middle", "tail", "head"]
    tail = rows[1].split()
    assert tail[3:5] == ["600", "11%"] and tail[6] == "-" and tail[8].startswith("-") and tail[-1] == "failed"
    assert not rows[0].endswith("failed") and slice_table([], floor=None) == []


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust
        ([0.9, 0.5], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_adjusts_as_p_adjust_of_r(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)


def test_a_group_may_fall_further_by_a_flag_that_needs_a_reason(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    family = dataclasses.replace(toy, gate=Gate(min_slice_examples=1), baselines=with_floor(toy))
    candidate = write_toy_model(toy, toy_data, tmp_path / "candidate", tilt=0.3)
    options = promote.Options(model=str(candidate), bootstrap=1000, slice_tolerance=0.5)

    with pytest.raises(UsageFailure, match=r"--slice-tolerance 0\.5 needs --reason"):
        promote.run(context, family, options, None)

    outcome = promote.run(context, family, dataclasses.replace(options, reason="the range is new"), None)
    evidence = json.loads((locate_model(context, "models:/toy@champion").directory / "promotion.json").read_text())
    assert (evidence["slice_tolerance"], evidence["reason"], evidence["forced"]) == (0.5, "the range is new", "false")
    assert evidence["slices"].keys() == {"warmth = warm", "warmth = cold"} and evidence["adjustment"] == "Holm"
    assert outcome.details["gains"].keys() == {"majority", "linear"} and outcome.details["floor"] == "linear"
    assert Registry(Tracking(context)).version_info("toy", "1").tags["reason"] == "the range is new"


def test_a_refusal_shows_the_gain_and_the_loss(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    family = dataclasses.replace(toy, baselines=with_floor(toy))
    useless = write_toy_model(toy, toy_data, tmp_path / "useless", sharpness=0.0)

    with pytest.raises(GateNotMet, match=r"Overall gain of accuracy: .* on majority, .* on linear") as refused:
        promote.run(context, family, promote.Options(model=str(useless), bootstrap=1000), None)

    assert refused.value.details["gains"].keys() == {"majority", "linear"}
    assert len(refused.value.details["checks"]) > len(refused.value.details["failed"])


def with_floor(toy: Family) -> Mapping[str, object]:
    """The toy's baseline, and an untrained network as another."""
    return {**toy.baselines, "linear": toy.Config(network="linear")}
