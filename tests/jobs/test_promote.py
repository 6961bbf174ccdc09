"""Promotion: the alias moves only for a significantly better model, and rollback moves it back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs import promote, rollback
from jobs.cli.context import Context, DependencyDown, GateNotMet, Outcome, UsageFailure
from jobs.evaluation.slice_gate import Limits, check_slices
from jobs.tracking.client import BUNDLE, TAG_FINGERPRINT, Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import CHAMPION, Registry
from models.errors import BundleRejected
from models.evaluate import Scores
from models.family import Family, Gate
from models.prepared import Prepared
from tests.kit.toy_models import write_toy_model


@pytest.fixture
def good(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "good")


@pytest.fixture
def middling(toy: Family, toy_data: Prepared, tmp_path: Path) -> Path:
    return write_toy_model(toy, toy_data, tmp_path / "middling", tilt=1.0)


def test_the_first_model_is_promoted_when_it_beats_every_baseline(context: Context, toy: Family, good: Path) -> None:
    outcome = _promote(context, toy, good)
    info = Registry(Tracking(context)).version_info("toy", "1")
    checks = json.loads(info.tags["checks"])
    assert (outcome.status, outcome.details["version"], _champion(context)) == ("promoted", "1", "1")
    assert checks["better than majority"]["passed"] and checks["better than majority"]["p_value"] < 0.05
    assert checks["latency"]["latency_ms"] > 0 and checks["size"]["size_mb"] > 0
    assert json.loads(info.tags["test_metrics"])["test_accuracy"] == outcome.metrics["test_accuracy"] > 0.85


def test_the_first_model_is_rejected_if_a_baseline_is_as_good(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    useless = write_toy_model(toy, toy_data, tmp_path / "useless", sharpness=0.0)
    with pytest.raises(GateNotMet, match="not significantly better than majority") as refused:
        _promote(context, toy, useless)
    assert refused.value.exit_code == 4
    assert _champion(context) is None
    assert Registry(Tracking(context)).list_versions("toy") == []


def test_a_better_model_replaces_the_champion(context: Context, toy: Family, good: Path, middling: Path) -> None:
    _promote(context, toy, middling)
    outcome = _promote(context, toy, good)
    assert (outcome.details["version"], outcome.details["previous_version"], _champion(context)) == ("2", "1", "2")


def test_a_worse_model_is_rejected_with_every_failed_check_and_the_alias_stays(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, good)
    with pytest.raises(GateNotMet) as refused:
        _promote(context, toy, middling)
    message = str(refused.value)
    assert "not significantly better than champion 1" in message
    assert "models:/toy@champion stays at version 1" in message
    assert len(refused.value.details["failed"]) == message.count("accuracy ")
    assert _champion(context) == "1"


def test_a_large_slice_may_not_drop_by_more_than_the_tolerance(toy: Family) -> None:
    groups = np.repeat(["improved", "small drop", "large drop", "too small"], [400, 400, 400, 40])
    champion = _scores(groups, {"improved": 0.5, "small drop": 0.5, "large drop": 0.5, "too small": 0.5})
    candidate = _scores(groups, {"improved": 0.9, "small drop": 0.46, "large drop": 0.44, "too small": 0.0})
    checks = {check.name: check for check in check_slices(toy, candidate, champion, limits=Limits())}
    assert candidate.ratio("accuracy") > champion.ratio("accuracy")
    assert {name: check.passed for name, check in checks.items()} == {
        "slice group = improved": True,
        "slice group = small drop": True,
        "slice group = large drop": False,
    }
    message = checks["slice group = large drop"].message
    assert "is 0.44000 against 0.50000 of the champion, on 400 examples, 32% of all (gain -12.0%" in message
    assert checks["slice group = improved"].numbers["gain"] == pytest.approx(0.8)


def test_an_insignificant_drop_of_a_slice_does_not_prevent_a_promotion(toy: Family) -> None:
    groups = np.repeat("small", 100)
    champion, candidate = (_scores(groups, {"small": 0.0}) for _ in range(2))
    champion.numerators["accuracy"][:20] = 1
    candidate.numerators["accuracy"][5:22] = 1

    [check] = check_slices(toy, candidate, champion, limits=Limits())

    assert (champion.ratio("accuracy"), candidate.ratio("accuracy"), check.passed) == (0.2, 0.17, True)


def test_a_model_that_is_too_slow_and_too_large_is_rejected_with_both_numbers(
    context: Context, toy: Family, good: Path
) -> None:
    strict = dataclasses.replace(toy, gate=Gate(max_latency_ms=1e-9, max_size_mb=1e-9))
    with pytest.raises(GateNotMet) as refused:
        _promote(context, strict, good)
    assert [text.rpartition("(")[2] for text in refused.value.details["failed"]] == ["limit 1e-09)", "limit 1e-09)"]


def test_force_requires_a_reason(context: Context, toy: Family, good: Path) -> None:
    with pytest.raises(UsageFailure, match="--force needs --reason"):
        _promote(context, toy, good, force=True, reason=" ")


def test_a_forced_promotion_is_recorded_with_its_reason(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, good)
    outcome = _promote(context, toy, middling, force=True, reason="the supplier left")
    tags = Registry(Tracking(context)).version_info("toy", "2").tags
    assert outcome.details["forced"] and _champion(context) == "2"
    assert (tags["forced"], tags["reason"]) == ("true", "the supplier left")


def test_the_alias_stays_when_storing_the_candidate_fails(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, middling)
    shutil.rmtree(context.store.artifacts / "models")
    (context.store.artifacts / "models").write_text("a file where a directory should be")
    with pytest.raises(DependencyDown):
        Registry(Tracking(context)).register("toy", None, good, {})
    assert _champion(context) == "1"
    assert len(Registry(Tracking(context)).list_versions("toy")) == 1


def test_promoting_the_champion_again_changes_nothing(context: Context, toy: Family, good: Path) -> None:
    _promote(context, toy, good)
    assert _promote(context, toy, good).status == "unchanged"
    assert len(Registry(Tracking(context)).list_versions("toy")) == 1


def test_the_default_candidate_is_the_best_finished_run_on_this_data(
    context: Context, toy: Family, toy_data: Prepared, good: Path, middling: Path
) -> None:
    fingerprint = toy_data.fingerprint
    best = _run(context, good, fingerprint, 0.8)
    _run(context, middling, fingerprint, 0.7)
    _run(context, middling, "other data", 0.9)
    _run(context, None, fingerprint, 0.95)
    _run(context, middling, fingerprint, 0.99, status="FAILED")
    assert _promote(context, toy, None).run_id == best


def test_without_any_run_the_error_names_the_remedy(context: Context, toy: Family, toy_data: Prepared) -> None:
    with pytest.raises(UsageFailure, match=r"run `shopkeeper train toy --store .*` first"):
        _promote(context, toy, None)


def test_a_version_does_not_depend_on_its_original_directory(context: Context, toy: Family, good: Path) -> None:
    _promote(context, toy, good)
    shutil.rmtree(good)
    located = locate_model(context, "models:/toy@champion")
    assert (located.version, (located.directory / "promotion.json").is_file()) == ("1", True)


def test_rollback_restores_the_previous_champion_and_fails_if_there_is_none(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, middling)
    with pytest.raises(UsageFailure, match="no previous one"):
        rollback.run(context, toy, rollback.Options(), None)
    _promote(context, toy, good)
    outcome = rollback.run(context, toy, rollback.Options(reason="complaints"), None)
    tags = Registry(Tracking(context)).version_info("toy", "2").tags
    assert (outcome.details["version"], _champion(context)) == ("1", "1")
    assert (tags["rolled_back_to"], tags["rollback_reason"]) == ("1", "complaints")
    assert outcome.details["endpoint"] == {"status": "not deployed"}


def test_a_second_rollback_returns_and_a_former_champion_can_be_named(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    for model in (middling, good):
        _promote(context, toy, model)

    restored = [rollback.run(context, toy, rollback.Options(), None).details["version"] for _ in range(3)]

    assert restored == ["1", "2", "1"]
    with pytest.raises(UsageFailure, match="has no version '7'"):
        rollback.run(context, toy, rollback.Options(to="7"), None)
    with pytest.raises(UsageFailure, match="--to 1 is the champion"):
        rollback.run(context, toy, rollback.Options(to="1"), None)
    assert rollback.run(context, toy, rollback.Options(to="2"), None).details["version"] == "2"


def test_rollback_without_a_champion_is_a_usage_failure(context: Context, toy: Family) -> None:
    with pytest.raises(UsageFailure, match="toy has no champion"):
        rollback.run(context, toy, rollback.Options(), None)


def test_rollback_to_a_damaged_model_leaves_the_alias(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, middling)
    stored = locate_model(context, "models:/toy/1").directory
    _promote(context, toy, good)
    (stored / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleRejected):
        rollback.run(context, toy, rollback.Options(), None)
    assert _champion(context) == "2"


def test_a_damaged_champion_can_be_replaced_with_force_only(
    context: Context, toy: Family, good: Path, middling: Path
) -> None:
    _promote(context, toy, middling)
    (locate_model(context, "models:/toy/1").directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleRejected):
        _promote(context, toy, good)
    assert _promote(context, toy, good, force=True, reason="the disk died").details["version"] == "2"


def _promote(
    context: Context, toy: Family, model: Path | None, *, force: bool = False, reason: str | None = None
) -> Outcome:
    uri = None if model is None else str(model)
    options = promote.Options(model=uri, bootstrap=1000, force=force, reason=reason)
    return promote.run(context, toy, options, None)


def _scores(groups: NDArray[np.str_], accuracies: dict[str, float]) -> Scores:
    correct = np.array([accuracies[group] for group in groups])
    return Scores({"accuracy": correct}, {"accuracy": np.ones(len(groups))}, {"group": groups}, {}, {}, len(groups))


def _champion(context: Context) -> str | None:
    return Registry(Tracking(context)).get_alias("toy", CHAMPION)


def _run(context: Context, model: Path | None, fingerprint: str, score: float, status: str = "FINISHED") -> str:
    tags = {TAG_FINGERPRINT: fingerprint}
    run = Tracking(context).start_run("toy", name="a run", params={}, tags=tags)
    run.log_metrics({"best_val_accuracy": score, "val_accuracy": 0.1}, step=1)
    if model is not None:
        run.log_artifacts(model, BUNDLE)
    run.end("FAILED" if status == "FAILED" else "FINISHED")
    return run.run_id
