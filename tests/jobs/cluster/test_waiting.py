"""Waiting for a cluster: with a limit or without, and for nodes that see the store."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from jobs.cluster import connection
from jobs.cluster import waiting as module
from jobs.cluster.waiting import FOREVER_S, START_TIMEOUT, check_visible, waiting


@pytest.mark.parametrize(
    ("may_scale", "limit_s", "timeout_s"),
    [
        (False, None, "20"),  # as the environment of these tests has it
        (False, 60.0, "15.0"),
        (True, None, str(float(FOREVER_S / 4))),
        (True, 60.0, "15.0"),
    ],
)
def test_training_waits_without_limit_only_where_nodes_may_come(
    may_scale: bool, limit_s: float | None, timeout_s: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "may_scale", lambda: may_scale)
    monkeypatch.setattr(module, "_say_what_is_missing", lambda what, bundle, ended: ended.wait())
    num_threads = threading.active_count()

    with waiting("2 workers", {"CPU": 1.0}, limit_s=limit_s, num_attempts=4):
        assert os.environ[START_TIMEOUT] == timeout_s

    assert os.environ[START_TIMEOUT] == "20"
    assert threading.active_count() == num_threads


@pytest.mark.ray
def test_a_directory_of_one_node_is_not_asked_for(ray_cluster: None) -> None:
    check_visible(Path("/does/not/exist"))
