"""Waiting for a cluster: with a limit or without, and for nodes that see the store."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from jobs.cluster import connection
from jobs.cluster import waiting as module
from jobs.cluster.waiting import FOREVER_S, START_TIMEOUT, Patience, check_visible, waiting


@pytest.mark.parametrize(
    ("may_scale", "limit_s", "elastic", "patience"),
    [
        (False, None, False, Patience(None, 3)),
        (False, 60.0, False, Patience(15.0, 3)),
        (True, None, False, Patience(FOREVER_S, 3)),
        (True, 60.0, False, Patience(15.0, 3)),
        (False, None, True, Patience(30.0, 4)),
        (True, None, True, Patience(30.0, -1)),
        (True, 100.0, True, Patience(30.0, 4)),
    ],
)
def test_training_waits_without_limit_only_where_nodes_may_come(
    may_scale: bool, limit_s: float | None, elastic: bool, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "may_scale", lambda: may_scale)

    assert Patience.of(limit_s, elastic=elastic, max_failures=3) == patience


@pytest.mark.parametrize(("attempt_s", "timeout_s"), [(None, "20"), (15.0, "15.0")])
def test_ray_train_is_told_how_long_to_wait(
    attempt_s: float | None, timeout_s: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_say_what_is_missing", lambda what, bundle, ended: ended.wait())
    num_threads = threading.active_count()

    with waiting("2 workers", {"CPU": 1.0}, attempt_s):
        assert os.environ[START_TIMEOUT] == timeout_s

    assert os.environ[START_TIMEOUT] == "20"  # as the environment of these tests has it
    assert threading.active_count() == num_threads


@pytest.mark.ray
def test_a_directory_of_one_node_is_not_asked_for(ray_cluster: None) -> None:
    check_visible(Path("/does/not/exist"))
