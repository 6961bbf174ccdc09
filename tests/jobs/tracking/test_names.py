"""A prefix of names separates shops that share a tracking server; runs show their data and source in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs import promote, rollback
from jobs.cli.context import Context, UsageFailure
from jobs.tracking.client import BUNDLE, Tracking
from jobs.tracking.model_uri import locate_model
from jobs.tracking.runs import open_run
from jobs.train import Options
from models import FAMILIES
from models.family import Family
from models.prepared import Prepared
from tests.kit.toy_models import write_toy_model


@pytest.fixture
def shops(context: Context, toy_data: Prepared) -> tuple[Context, Context]:
    """Two shops whose runs and models are in one database."""
    shared = Tracking(context).uri
    first, second = (replace(context, tracking_uri=shared, name_prefix=f"{name}.") for name in ("shop-a", "shop-b"))
    return first, second


def test_two_shops_on_one_server_see_only_their_own_runs_and_models(
    shops: tuple[Context, Context], toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    first, second = shops
    _run_with_model(first, toy, toy_data, tmp_path / "one")
    promoted = promote.run(first, toy, promote.Options(bootstrap=1000), None)

    assert promoted.details["model"] == "models:/shop-a.toy/1"
    assert locate_model(first, "models:/toy@champion").uri == "models:/shop-a.toy/1"
    assert locate_model(first, "models:/shop-a.toy@champion").version == "1"
    assert Tracking(second).list_runs("toy") == []
    with pytest.raises(UsageFailure, match="no finished run of toy"):
        promote.run(second, toy, promote.Options(bootstrap=1000), None)
    with pytest.raises(UsageFailure, match="toy has no champion"):
        rollback.run(second, toy, rollback.Options(), None)


def test_a_version_tells_its_score_its_data_and_the_baselines(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _run_with_model(context, toy, toy_data, tmp_path / "model")

    promote.run(context, toy, promote.Options(bootstrap=1000), None)

    described = Tracking(context).client.get_model_version("toy", "1").description or ""
    assert "Accuracy 0." in described and "95 % interval" in described
    assert toy_data.fingerprint[:16] in described
    assert "ok: accuracy" in described and "majority" in described


def test_a_run_shows_its_data_and_its_source_in_mlflow(context: Context, toy: Family, toy_data: Prepared) -> None:
    _, run = open_run(context, toy, name="train toy", config=toy.Config(), options=Options(), tags={})

    stored = Tracking(context).client.get_run(run.run_id)
    assert stored.inputs is not None
    (used,) = stored.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == (f"toy {toy_data.name}", toy_data.fingerprint[:36])
    assert '"rows": 800' in (used.dataset.profile or "")
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert stored.data.tags["mlflow.source.name"] == "shopkeeper train toy"
    assert stored.data.tags["mlflow.source.git.commit"] == stored.data.tags["git_commit"].removesuffix("+changes")


def test_the_page_of_an_experiment_opens_with_its_runs(context: Context) -> None:
    tracking = Tracking(context)
    old = tracking.client.create_experiment("toy", artifact_location=context.store.artifacts.as_uri())

    assert tracking.experiment_with_runs_first("toy") == old
    assert tracking.client.get_experiment(old).tags["mlflow.experimentKind"] == "custom_model_development"
    assert tracking.experiment_with_runs_first("other") is None


@pytest.mark.parametrize(
    ("name", "network", "absent", "present"),
    [
        ("recommender", "transitions", {"cell", "dim", "dropout", "epochs"}, {"max_length", "seed"}),
        ("recommender", "gru", {"num_heads"}, {"cell", "dim"}),
        ("image", "resnet", {"latent", "backbone"}, {"width", "mixup"}),
        ("image", "gan", {"label_smoothing", "noise"}, {"latent"}),
    ],
)
def test_settings_that_a_network_ignores_are_not_logged(
    name: str, network: str, absent: set[str], present: set[str]
) -> None:
    family = FAMILIES[name]

    used = family.used_settings(family.Config(network=network)).keys()

    assert present <= used
    assert not absent & used


def test_the_network_of_another_package_uses_every_setting(toy: Family) -> None:
    assert "learning_rate" in toy.used_settings(toy.Config())


def _run_with_model(context: Context, toy: Family, data: Prepared, directory: Path) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={"data_fingerprint": data.fingerprint})
    run.log_artifacts(write_toy_model(toy, data, directory), BUNDLE)
    run.log_metrics({"val_accuracy": 0.9}, step=1)
    run.end("FINISHED")
