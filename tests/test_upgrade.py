"""Upgrades: a store of an earlier release can be read, resumed, served and rolled back, with equal predictions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import deploy, predict, promote, rollback, status, stop, train
from jobs.cli.context import Context, Outcome, Store
from jobs.cluster.local_head import headers, running_head, stop_head
from jobs.cluster.ports import free_port
from jobs.serving.api import ServeApi, read_json
from jobs.serving.config import PinnedModel
from jobs.serving.switch import Acceptance, wait_until_served
from jobs.tracking.client import Tracking
from jobs.training import checkpoints
from models import FAMILIES, bundle, golden
from tests.stores import bundle_names, unpack

RELEASES = ("0.1.0", "0.2.0", "0.3.0", "0.4.0")
NAMES = ("image", "recommender")
VOLATILE = "recommendation_id"
NUM_EPOCHS = 4
"""Configured epochs of the interrupted runs, which were stopped after the first or second."""


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def unpacked(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only store of an earlier release, next to its bundles, requests and answers."""
    return unpack(release, tmp_path_factory.mktemp("upgrade"))


@pytest.fixture(scope="module")
def context(unpacked: Path) -> Context:
    return Context(store=Store(unpacked))


# Without a cluster


def test_models_of_an_earlier_release_return_their_golden_answers(unpacked: Path, release: str) -> None:
    names = bundle_names(release)

    assert len(names) > 20
    for name in names:
        _check_golden(unpacked.parent / "bundles" / name)


def test_no_location_in_the_database_points_to_where_the_store_was_made(
    context: Context, unpacked: Path, release: str
) -> None:
    before = f"/tmp/shopkeeper-store-{release}/store".encode()
    assert before in (unpacked / "mlflow.db").read_bytes()

    status.run(context, None, status.Options(timeout_s=60), None)

    with closing(sqlite3.connect(unpacked / "mlflow.db")) as database:
        assert before not in "\n".join(database.iterdump()).encode()


@pytest.mark.parametrize("name", NAMES)
def test_status_shows_data_runs_champion_and_deployment(context: Context, name: str) -> None:
    found = status.run(context, FAMILIES[name], status.Options(timeout_s=60), None).details["families"][name]

    assert found["prepared"]["data"] == str(context.store.current_data(name).path)
    assert [run["status"] for run in found["finished"]] == ["killed", "finished", "finished"]
    assert (found["champion"]["version"], found["champion"]["previous"]) == ("2", "1")
    assert (found["deployed"]["version"], found["deployed"]["health"]) == ("2", "down")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", ["1", "2"])
def test_predictions_equal_those_of_the_earlier_release(
    context: Context, unpacked: Path, tmp_path: Path, name: str, version: str
) -> None:
    asked = unpacked.parent / "requests" / f"{name}.parquet"
    output = tmp_path / "answers.parquet"
    fields = ("embedding=true",) if name == "image" else ()
    model = f"models:/{name}/1" if version == "1" else None  # the champion
    options = predict.Options(input=str(asked), output=str(output), model=model, set=fields)

    predict.run(context, FAMILIES[name], options, None)

    expected = pq.read_table(unpacked.parent / "answers" / f"{name}-{version}.parquet")
    assert _stable(pq.read_table(output).to_pylist()) == _approximately(_stable(expected.to_pylist()))


# On one cluster, in this order


@pytest.fixture(scope="module")
def shop(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A writable store of an earlier release."""
    store = Store(unpack(release, tmp_path_factory.mktemp("shop")))
    yield Context(store=store)
    stop_head(store)


@pytest.fixture(scope="module")
def port(release: str) -> int:
    return free_port()


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_is_resumed_and_promoted(ray_cluster: None, shop: Context, name: str) -> None:
    tracking, family = Tracking(shop), FAMILIES[name]
    (interrupted,) = tracking.list_runs(name, where="attributes.status = 'KILLED'")
    directory = shop.store.run_directory(name, interrupted.run_id)
    done = checkpoints.read_reports(directory)

    resumed = train.run(shop, family, train.Options(resume=interrupted.run_id), family.Config())
    promoted = _promote(shop, name, interrupted.run_id)

    assert 2 <= len(done) <= NUM_EPOCHS
    assert resumed.details["epochs"] == NUM_EPOCHS
    assert checkpoints.read_reports(directory)[: len(done)] == done
    losses = tracking.metric_history(interrupted.run_id, "train_loss")
    assert [step for step, _ in losses] == [*range(1, NUM_EPOCHS + 1)]
    assert losses[0][1] == done[1]["train_loss"]
    assert tracking.run_info(interrupted.run_id).status == "FINISHED"
    assert (promoted.details["version"], promoted.details["previous_version"]) == ("3", "2")


@pytest.mark.ray
def test_deploying_one_family_restores_the_deployment_of_the_other(shop: Context, port: int) -> None:
    deployed = deploy.run(shop, FAMILIES["recommender"], deploy.Options(port=port), None)

    assert deployed.details["version"] == "3"
    assert _golden_difference(shop, "recommender", "3", port) is None
    directory = shop.store.serve / "models" / "image" / "2"
    _wait(shop, "image", PinnedModel("2", directory, bundle.verify(directory)), port)
    assert _golden_difference(shop, "image", "2", port) is None


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_the_previous_champion_is_restored_with_equal_answers(shop: Context, port: int, name: str) -> None:
    rolled = rollback.run(shop, FAMILIES[name], rollback.Options(reason="an upgrade"), None)

    deployed = deploy.run(shop, FAMILIES[name], deploy.Options(port=port), None)

    assert (rolled.details["version"], rolled.details["previous_version"]) == ("2", "3")
    assert deployed.details["version"] == "2"
    assert _golden_difference(shop, name, "2", port) is None


@pytest.mark.ray
def test_stop_leaves_nothing_running(shop: Context) -> None:
    assert stop.run(shop, None, stop.Options(), None).status == "stopped"
    assert running_head(shop.store) is None


def _check_golden(directory: Path) -> None:
    family = FAMILIES[bundle.family_name(directory)]
    loaded = bundle.load(directory, family)
    golden.check(family, loaded.network, loaded.schema, loaded.golden)


def _promote(context: Context, name: str, run_id: str) -> Outcome:
    options = promote.Options(model=f"runs:/{run_id}", force=True, reason="an upgrade", bootstrap=1000)
    return promote.run(context, FAMILIES[name], options, None)


def _golden_difference(context: Context, name: str, version: str, port: int) -> str | None:
    """The difference between the served answer and the stored golden answer of a version, or None."""
    expected = json.loads((context.store.serve / "models" / name / version / "golden.json").read_text())
    url = f"http://127.0.0.1:{port}{FAMILIES[name].endpoints[0].path}"
    answer = read_json(url, expected["request"])
    assert answer["model_version"] == version
    return golden.difference(expected, answer)


def _wait(context: Context, name: str, model: PinnedModel, port: int) -> None:
    info = running_head(context.store)
    assert info is not None
    api = ServeApi(info.dashboard_url, headers(info))
    wait_until_served(
        api, FAMILIES[name], model, url=f"http://127.0.0.1:{port}", acceptance=Acceptance({}, timeout_s=60)
    )


def _stable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != VOLATILE} for row in rows]


def _approximately(value: Any) -> Any:
    """The value with floats that compare equal within 1e-4."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, list):
        return [_approximately(each) for each in value]
    return {name: _approximately(each) for name, each in value.items()} if isinstance(value, dict) else value
