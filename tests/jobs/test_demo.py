"""The demo: the whole pipeline in one command, with nothing left running."""

from __future__ import annotations

import socket
import sysconfig
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobs import demo
from jobs.cli.context import Context, Store, UsageFailure
from jobs.cluster.local_head import running_head
from jobs.cluster.ports import free_port
from jobs.tracking.mlflow_ui import running_ui, start_ui, stop_ui
from models.family import Family
from tests.kit.foreign import imported, run_in, write_foreign_packages


@pytest.mark.ray
def test_the_demo_returns_right_answers_and_leaves_nothing_running(tmp_path: Path) -> None:
    write_foreign_packages(tmp_path)
    code, said = _demo(tmp_path, "--trials", "2")
    assert imported(tmp_path) == ""
    assert code == 0, said
    old, new, anonymous = said["answers"].values()
    first = new["answer"]["items"][0]["item_id"]
    assert f"is mostly followed by {first}" in new["right_answer"]
    assert (old["answer"]["source"], anonymous["answer"]["source"]) == ("personal", "popular")
    assert said["metrics"]["test_ndcg_at_10"] > 0.3
    assert running_head(Store(tmp_path / "demo")) is None
    assert not _is_listening(said["where"]["endpoint"])
    assert not _is_listening(said["where"]["ray_dashboard"])


@pytest.mark.ray
def test_a_demo_that_fails_stops_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, said = _demo(tmp_path)
    assert code == 5
    assert "http://127.0.0.1:9" in said["error"]
    assert (tmp_path / "demo" / "cluster" / "head.log").is_file()
    assert running_head(Store(tmp_path / "demo")) is None


@pytest.mark.parametrize("flag", ["--trials=0", "--workers=0"])
def test_a_demo_that_cannot_work_is_refused_before_anything_starts(tmp_path: Path, flag: str) -> None:
    code, said = _demo(tmp_path, flag)
    assert code == 2
    assert flag.partition("=")[0] in said["error"]
    assert not (tmp_path / "demo").exists()


def test_a_family_without_synthetic_data_has_no_demo(store: Store, toy: Family) -> None:
    with pytest.raises(UsageFailure, match="toy has no synthetic data; add a `sample`"):
        demo.run(Context(store=store), toy, demo.Options(), None)


def test_a_demo_on_a_remote_cluster_is_rejected(store: Store) -> None:
    with pytest.raises(UsageFailure, match=r"omit --address 10\.0\.0\.1:6379"):
        demo.run(Context(store=store, address="10.0.0.1:6379"), None, demo.Options(), None)
    assert not store.root.exists()


def test_a_directory_that_no_demo_wrote_is_not_deleted(store: Store) -> None:
    notes = store.root / "demo" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")

    with pytest.raises(UsageFailure, match="no demo wrote it"):
        demo.run(Context(store=store), None, demo.Options(), None)

    assert notes.read_text() == "mine"


@pytest.mark.parametrize("sign", [".shopkeeper-demo", "cluster/head.log"])
def test_the_store_of_an_earlier_demo_is_cleared(store: Store, sign: str) -> None:
    for name in (sign, "raw/log.csv"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).touch()

    demo._clear(store)

    assert [path.name for path in store.root.iterdir()] == [demo.MARKER]


def test_a_port_in_use_is_not_chosen() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        taken = held.getsockname()[1]
        assert free_port(taken) != taken
    assert free_port(taken) == taken


def test_the_mlflow_ui_starts_and_stops(context: Context) -> None:
    url = start_ui(context.store)
    try:
        assert running_ui(context.store) == url
        assert _is_listening(url)
    finally:
        assert stop_ui(context.store)
    assert running_ui(context.store) is None
    assert not _is_listening(url)


def _demo(folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run the demo as a user does, with its store in a folder."""
    shopkeeper = Path(sysconfig.get_path("scripts")) / "shopkeeper"
    return run_in(folder, [shopkeeper, "demo", "--json", "--store", ".", *flags])


def _is_listening(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as asking:
        return asking.connect_ex((parts.hostname, parts.port)) == 0
