"""Turns of pipelines: one pipeline once at a time, several in the order in which they came."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

import pytest

from jobs.cli.context import Store, UsageFailure
from jobs.pipelines.records import root
from jobs.pipelines.turns import is_running, turn


def never(seconds: float) -> None:
    pytest.fail("it waits")


def test_a_pipeline_that_is_running_is_refused_with_its_process(store: Store) -> None:
    with turn(store, "daily", at_once=5, waits=True, pause=never):
        assert f"process {os.getpid()} on" in str(is_running(store, "daily"))
        with (
            pytest.raises(UsageFailure, match=f"daily is running already .*process {os.getpid()} "),
            turn(store, "daily", at_once=5, waits=True, pause=lambda _: None),
        ):
            pytest.fail("two at once")

    assert is_running(store, "daily") is None


def test_others_wait_until_the_limit_has_room(store: Store) -> None:
    pauses = []
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(turn(store, "daily", at_once=1, waits=True, pause=never))
        second.enter_context(turn(store, "hourly", at_once=2, waits=True, pause=never))

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            (first if len(pauses) == 1 else second).close()

        with turn(store, "weekly", at_once=1, waits=True, pause=pause):
            assert len(pauses) == 2


def test_who_came_first_is_first(store: Store) -> None:
    """The second in the queue does not run while the first waits, although one place is free."""
    order = []

    def second_comes(_: float) -> None:
        if "second" in order:
            running.close()
            return
        order.append("second")
        with (
            pytest.raises(UsageFailure, match=r"running, process .* and first, process .* run in this store"),
            turn(store, "second", at_once=1, waits=False, pause=never),
        ):
            pytest.fail("it overtakes")

    with ExitStack() as running:
        running.enter_context(turn(store, "running", at_once=1, waits=True, pause=never))
        with turn(store, "first", at_once=1, waits=True, pause=second_comes):
            order.append("first")

    assert order == ["second", "first"]


def test_without_waiting_the_holder_is_named(store: Store) -> None:
    with (
        turn(store, "daily", at_once=1, waits=True, pause=never),
        pytest.raises(UsageFailure, match=r"daily, process \d+ on .* run in this store already; nothing was run"),
        turn(store, "weekly", at_once=1, waits=False, pause=never),
    ):
        pytest.fail("it runs")


def test_the_place_of_a_process_that_was_killed_is_free(store: Store) -> None:
    queue = root(store) / "queue"
    queue.mkdir(parents=True)
    ticket = queue / "000000000001.ticket"
    ticket.write_text(json.dumps({"pipeline": "dead", "host": "h", "pid": 1}), encoding="utf-8")

    with turn(store, "daily", at_once=1, waits=True, pause=never):
        assert not ticket.exists()
