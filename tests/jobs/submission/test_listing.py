"""The rows of `shopkeeper jobs`, from Ray's description of a job and the job's log."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.submission.listing import describe, table

RUN_ID = "0123456789abcdef0123456789abcdef"
LOG = f"10:00:00 I run {RUN_ID} in /store/toy/runs/{RUN_ID}\nepoch 1 val_x 0.1\n(worker) epoch 2 val_x 0.2\nnoise\n"


def job(status: str, *, exit_code: int | None = None, message: str = "", error_type: str | None = None) -> Any:
    metadata = {"shopkeeper_verb": "train", "shopkeeper_family": "toy", "team": "search"}
    return SimpleNamespace(
        submission_id="one",
        status=status,
        driver_exit_code=exit_code,
        message=message,
        error_type=error_type,
        start_time=1_000_000,
        metadata=metadata,
    )


def test_a_running_job_has_its_run_its_last_epoch_and_its_age() -> None:
    row = describe(job("RUNNING"), LOG, now_s=1060.0)

    assert (row["verb"], row["family"], row["run_id"]) == ("train", "toy", RUN_ID)
    assert (row["state"], row["progress"], row["age_s"]) == ("running", "epoch 2 val_x 0.2", 60.0)
    assert row["metadata"] == {"team": "search"}


def test_a_waiting_job_says_what_it_waits_for() -> None:
    row = describe(job("PENDING", message="Job is waiting for resources\n(CPU, GPU)"), "")

    assert (row["state"], row["progress"]) == ("waiting", "Job is waiting for resources (CPU, GPU)")


@pytest.mark.parametrize(
    ("status", "exit_code", "verb_code", "state"),
    [
        ("SUCCEEDED", 0, 0, "done"),
        ("FAILED", 3, 3, "failed"),
        ("FAILED", 6, 6, "interrupted"),
        ("FAILED", -9, None, "dead"),
        ("FAILED", 137, None, "dead"),
        ("STOPPED", None, None, "stopped"),
    ],
)
def test_an_ended_job_has_a_state(status: str, exit_code: int | None, verb_code: int | None, state: str) -> None:
    line = "" if verb_code is None else json.dumps({"verb": "train", "exit_code": verb_code, "metrics": {}})

    assert describe(job(status, exit_code=exit_code), LOG + line)["state"] == state


@pytest.mark.parametrize(
    ("error_type", "state"),
    [("JOB_SUPERVISOR_ACTOR_DIED", "dead"), ("JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "failed")],
)
def test_a_job_is_dead_if_its_node_was_lost_and_not_if_it_waited_too_long(error_type: str, state: str) -> None:
    assert describe(job("FAILED", error_type=error_type), LOG)["state"] == state


def test_a_failed_job_shows_its_error() -> None:
    line = json.dumps({"verb": "train", "run_id": "r", "exit_code": 1, "error": "the loss is NaN"})

    row = describe(job("FAILED", exit_code=1), f"{LOG}{line}\n")

    assert (row["run_id"], row["progress"]) == ("r", "the loss is NaN")


def test_the_table_has_a_line_a_job() -> None:
    lines = table([describe(job("RUNNING"), LOG, now_s=1000.0 + 7200)])

    assert lines[0].startswith("submission id")
    assert lines[1].split()[:7] == ["one", "train", "toy", RUN_ID, "running", "-", "2"]
    assert table([]) == ["no jobs"]
