"""A store that was moved, renamed or copied: its locations are corrected, and the original is left alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from jobs import evaluate, predict, promote, rollback, status
from jobs.cli.context import Context, Store
from jobs.cluster.local_head import ClusterInfo, identity, running_head
from jobs.cluster.processes import created_s
from jobs.serving.config import (
    PinnedModel,
    Size,
    application,
    config_path,
    empty_config,
    former_root,
    read_config,
    write_config,
)
from jobs.serving.config import with_application as added
from jobs.tracking.client import BUNDLE, Tracking
from jobs.tracking.database import LOCATIONS, database_uri, relocate
from jobs.tracking.model_uri import locate_model
from jobs.tracking.registry import Registry
from models.bundle import verify
from models.family import Family
from models.files import write_text
from models.prepared import Prepared
from tests.kit.toy_models import write_toy_model

INSERT = "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (?, ?, ?, ?)"
NAMES = ["a b", "what?", "100%", "a%20b", "a#b", "größe", "~x", "it's", "a&b=c"]


def test_after_a_move_every_verb_finds_runs_and_versions(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data)
    moved = _moved(context, tmp_path / "elsewhere")

    shown = status.run(moved, toy, status.Options(), None).details["families"]["toy"]
    evaluated = evaluate.run(moved, toy, evaluate.Options(bootstrap=100), None)
    options = promote.Options(model=f"runs:/{evaluated.run_id}", force=True, reason="a test", bootstrap=1000)
    promoted = promote.run(moved, toy, options, None)
    restored = rollback.run(moved, toy, rollback.Options(), None)

    assert shown["champion"]["version"] == "2"
    assert promoted.status == "unchanged"  # the candidate has the digest of the champion
    assert restored.details["version"] == "1"
    assert locate_model(moved, "models:/toy/2").directory.is_relative_to(moved.store.root)
    assert Path(evaluated.details["report"]).is_relative_to(moved.store.root)
    assert not context.store.root.exists()


def test_a_copied_store_leaves_the_original_alone(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data)
    copy = Context(store=Store(tmp_path / "copy"))
    shutil.copytree(context.store.root, copy.store.root)
    _artifact_repos_cache.clear()
    before = (context.store.root / "mlflow.db").read_bytes()

    run = Tracking(copy).resume_run(locate_model(copy, "models:/toy@champion").run_id or "")
    run.log_text("new", "note.txt")

    assert (context.store.root / "mlflow.db").read_bytes() == before
    assert not list(context.store.root.rglob("note.txt"))
    assert len(list(copy.store.root.rglob("note.txt"))) == 1


def test_two_verbs_that_start_at_once_in_a_moved_store_both_see_the_new_place(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data)
    moved = _moved(context, tmp_path / "elsewhere")
    found: list[Path] = []
    start = threading.Barrier(4)

    def locate() -> None:
        start.wait()
        found.append(locate_model(moved, "models:/toy@champion").directory)

    threads = [threading.Thread(target=locate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert all(path.is_relative_to(moved.store.root) for path in found)


def test_a_store_that_is_opened_through_a_link_keeps_its_locations(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data)
    link = tmp_path / "link"
    link.symlink_to(context.store.root)

    locate_model(Context(store=Store(link)), "models:/toy@champion")

    assert _locations(context.store.root / "mlflow.db") == {str(context.store.root)}


def test_locations_elsewhere_are_left_alone(tmp_path: Path, empty_database: Path) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(empty_database, database)
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, (name, location) in enumerate(
            [
                ("toy", "file:///old/artifacts"),
                ("shop-a.toy", "file:///old/artifacts"),
                ("toy-s3", "s3://bucket/artifacts"),
                ("mine", "file:///data/artifacts"),
            ]
        ):
            row = (100 + number, name, location, "active")
            connection.execute(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (?, ?, ?, ?)",
                row,
            )

    relocate(database, tmp_path / "artifacts", ["toy"])

    with closing(sqlite3.connect(database)) as connection:
        found = dict(connection.execute("SELECT name, artifact_location FROM experiments WHERE experiment_id >= 100"))
    here = (tmp_path / "artifacts").as_uri()
    assert found == {
        "toy": here,
        "shop-a.toy": here,
        "toy-s3": "s3://bucket/artifacts",
        "mine": "file:///data/artifacts",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_store_may_have_any_name(tmp_path: Path, empty_database: Path, name: str) -> None:
    context = Context(store=Store(tmp_path / name))
    context.store.root.mkdir()
    shutil.copy(empty_database, context.store.root / "mlflow.db")
    tracking = Tracking(context)

    run = tracking.start_run("toy", name="a run", params={}, tags={})
    run.log_text("text", f"{BUNDLE}/a.txt")

    assert tracking.has_bundle(run.run_id)
    assert list((context.store.artifacts / run.run_id).rglob("a.txt"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_calls_that_were_spooled_before_a_move_are_delivered(context: Context, tmp_path: Path) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})
    logged = tmp_path / "model"
    logged.mkdir()
    (logged / "a.txt").write_text("text")
    spool = Tracking(context).spool
    spool.append(run.run_id, {"call": "artifacts", "directory": str(logged), "name": BUNDLE})
    moved = _moved(context, tmp_path / "elsewhere")

    assert Tracking(moved).deliver_spool() == 1
    assert Tracking(moved).has_bundle(run.run_id)


def test_the_deployment_of_a_moved_store_has_its_new_paths(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    store = context.store
    pinned = write_toy_model(toy, toy_data, store.serve / "models" / "toy" / "1")
    _write_config(store, toy, pinned)
    moved = _moved(context, tmp_path / "elsewhere").store

    config = read_config(config_path(moved))

    assert config is not None
    settings = config["applications"][0]["deployments"][0]["user_config"]
    assert settings["bundle"] == str(moved.serve / "models" / "toy" / "1")
    assert settings["feature_store"] == str(moved.feature_store("toy"))
    assert settings["index"] is None
    assert former_root(config_path(moved)) == store.root
    _write_config(moved, toy, Path(settings["bundle"]))
    assert former_root(config_path(moved)) is None


def test_the_cluster_of_a_store_is_that_of_the_moved_store_and_not_of_a_copy(context: Context, tmp_path: Path) -> None:
    store = context.store
    token = tmp_path / "token"
    token.write_text("secret")
    record = {"address": "127.0.0.1:1", "dashboard_url": "http://127.0.0.1:2", "pid": os.getpid(), "ports": {}}
    paths = {"temp_dir": str(tmp_path / "ray"), "token_path": str(token), "store": identity(store)}
    write_text(store.cluster / "cluster.json", json.dumps({**record, **paths, "started_s": created_s(os.getpid())}))
    copy = Store(tmp_path / "copy")
    shutil.copytree(store.root, copy.root)
    moved = Store(store.root.rename(tmp_path / "elsewhere"))

    assert isinstance(running_head(moved), ClusterInfo)
    assert running_head(copy) is None


def test_a_batch_prediction_of_a_moved_store_reads_its_model_there(
    context: Context, toy: Family, toy_data: Prepared, tmp_path: Path
) -> None:
    _with_champion(context, toy, toy_data)
    pq.write_table(pa.table({"visitor_id": ["v00001", "nobody"]}), tmp_path / "asked.parquet")
    moved = _moved(context, tmp_path / "elsewhere")
    options = predict.Options(input=str(tmp_path / "asked.parquet"), output=str(tmp_path / "answers.parquet"))

    done = predict.run(moved, toy, options, None)

    assert (done.metrics["rows"], done.metrics["errors"]) == (2, 1)


def _with_champion(context: Context, toy: Family, data: Prepared) -> None:
    """Two versions of which the second is champion, each with a run that has its model."""
    tracking = Tracking(context)
    registry = Registry(tracking)
    for number in (1, 2):
        directory = write_toy_model(toy, data, context.store.root / "model", tilt=0.1 * number)
        run = tracking.start_run("toy", name="a run", params={}, tags={})
        run.log_artifacts(directory, BUNDLE)
        run.end("FINISHED")
        shutil.rmtree(directory)
        located = locate_model(context, f"runs:/{run.run_id}")
        tags = {"previous_champion": str(number - 1) if number > 1 else ""}
        registry.set_alias("toy", "champion", registry.register("toy", run.run_id, located.directory, tags))


def _moved(context: Context, target: Path) -> Context:
    """The context of the store after a move; the next verb is another process, without MLflow's cache of locations."""
    _artifact_repos_cache.clear()
    return Context(store=Store(context.store.root.rename(target)))


def _locations(database: Path) -> set[str]:
    """The stores that the locations of runs and models name."""
    found = set()
    with closing(sqlite3.connect(database)) as connection:
        for table, column in LOCATIONS[1:]:
            found |= {location for (location,) in connection.execute(f"SELECT {column} FROM {table}")}
    return {location.removeprefix("file://").partition("/artifacts")[0] for location in found}


def _write_config(store: Store, toy: Family, directory: Path) -> None:
    model = PinnedModel("1", directory, verify(directory))
    one = application(toy, model, feature_store=store.feature_store("toy"), size=Size())
    write_config(config_path(store), added(empty_config(host="127.0.0.1", port=8000), one))


def test_a_plain_path_is_not_reached_through_a_link(tmp_path: Path) -> None:
    assert database_uri(tmp_path / "mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
