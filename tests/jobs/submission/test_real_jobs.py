"""Jobs on a real cluster of Ray: submitted, listed, killed and submitted again, read, stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import job_list, submit
from jobs.cli.context import Context, Store, UsageFailure
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import start_head, stop_head
from jobs.submission.client import job_client
from jobs.tracking.client import RunInfo, Tracking
from jobs.tracking.liveness import TAG_PROCESS, TAG_SUBMISSION
from tests.kit.polling import until
from tests.kit.shop import prepare_shop

TRAINING = ("train", "recommender", "--epochs", "100000", "--patience", "0")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Context]:
    """A store with prepared data and a local cluster."""
    context = Context(store=Store(tmp_path / "store"))
    prepare_shop(context.store)
    start_head(context.store)
    yield context
    stop_head(context.store)


def jobs(context: Context, *command: str) -> Any:
    return job_list.run(context, None, job_list.Options(command=command), None)


def row_of(context: Context, job_id: str) -> dict[str, Any]:
    (row,) = [row for row in jobs(context).details["jobs"] if row["submission_id"] == job_id]
    return dict(row)


def states(row: dict[str, Any]) -> list[str]:
    return [each["state"] for each in row["attempts"]]


def driver(context: Context, *, other_than: str = "") -> RunInfo | None:
    """The run of the job, once it is driven by a process that is not the given one."""
    found = Tracking(context).list_runs("recommender", where=f"tags.{TAG_SUBMISSION} = 'nightly'")
    return found[0] if found and found[0].tags[TAG_PROCESS] != other_than else None


@pytest.mark.ray
def test_a_job_is_submitted_again_when_its_driver_is_killed_and_not_when_it_is_stopped(cluster: Context) -> None:
    options = submit.Options(
        command=TRAINING, wait=False, submission_id="nightly", retries=3, metadata=("team=search",), env=("HOME",)
    )
    assert submit.run(cluster, None, options, None).details["job_id"] == "nightly"
    first = until(lambda: driver(cluster))
    until(lambda: row_of(cluster, "nightly")["run_id"])

    os.kill(int(first.tags[TAG_PROCESS].split()[0]), signal.SIGKILL)
    second = until(lambda: driver(cluster, other_than=first.tags[TAG_PROCESS]))

    row = row_of(cluster, "nightly")
    assert second.run_id == first.run_id == row["run_id"]
    assert (row["state"], row["verb"], row["attempt"], row["metadata"]) == ("running", "train", 2, {"team": "search"})
    assert states(row) == ["dead", "running"]
    log = until(lambda: text if "resuming run" in (text := jobs(cluster, "logs", "nightly").summary) else None)
    assert "attempt 1 of 4 was lost" in log

    job_client(*dashboard(cluster)).stop_job("nightly")  # as the dashboard and Ray's own command do
    row = until(lambda: row if "running" not in states(row := row_of(cluster, "nightly")) else None)
    assert (row["state"], states(row)) == ("stopped", ["dead", "stopped"])
    with pytest.raises(UsageFailure, match="has ended already"):
        jobs(cluster, "stop", "nightly")
    with pytest.raises(UsageFailure, match="choose another"):
        submit.run(cluster, None, options, None)

    submit.run(cluster, None, submit.Options(command=TRAINING, wait=False, submission_id="plain"), None)
    until(lambda: row if (row := row_of(cluster, "plain"))["state"] == "running" else None)
    assert jobs(cluster, "stop", "plain").status == "stopped"
    assert row_of(cluster, "plain")["state"] == "stopped"
