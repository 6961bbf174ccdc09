"""`shopkeeper jobs` without a cluster: what cannot be done, and what is said then."""

from __future__ import annotations

import dataclasses
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import job_list
from jobs.__main__ import main
from jobs.cli.context import Context, DependencyDown, UsageFailure
from jobs.job_list import Options
from jobs.submission.client import find_job


def job(job_id: str, status: str, **metadata: str) -> Any:
    ended = {"SUCCEEDED": 0, "FAILED": 1}.get(status)
    return SimpleNamespace(
        submission_id=job_id,
        status=status,
        driver_exit_code=ended,
        error_type=None,
        message="",
        metadata=metadata,
        start_time=1000,
    )


class FakeCluster:
    """A fake of Ray's job client: a job that has ended, one that waits, and one with retries in its second attempt."""

    def __init__(self, *, supervisor: str = "RUNNING") -> None:
        of_third = {"shopkeeper_attempt_of": "third"}
        self.jobs = [
            job("one", "SUCCEEDED"),
            job("waiting", "PENDING"),
            job("third", supervisor),
            job("third-attempt-1", "FAILED", **of_third),
            job("third-attempt-2", "RUNNING", **of_third),
        ]
        self.stopped: list[str] = []

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def get_job_info(self, job_id: str) -> Any:
        for each in self.jobs:
            if each.submission_id == job_id:
                return each
        raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")

    def get_job_logs(self, job_id: str) -> str:
        return ""

    def stop_job(self, job_id: str) -> bool:
        found = self.get_job_info(job_id)
        self.stopped.append(job_id)
        if found.status == "RUNNING":
            found.status = "STOPPED"
        return job_id != "one"


def test_an_unknown_job_is_a_usage_error_that_names_the_list() -> None:
    with pytest.raises(UsageFailure, match=r"no job 'nope'.*`shopkeeper jobs`"):
        find_job(FakeCluster(), "nope")  # type: ignore[arg-type]


def test_a_job_that_has_ended_cannot_be_stopped() -> None:
    with pytest.raises(UsageFailure, match="one has ended already"):
        job_list._stop(FakeCluster(), "one")  # type: ignore[arg-type]


class Refusing(BaseHTTPRequestHandler):
    """A dashboard that knows another token."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"Forbidden: Invalid authentication token")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_refused_token_is_a_dependency_and_the_message_names_the_variable(context: Context) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    there = dataclasses.replace(context, address=f"http://127.0.0.1:{server.server_port}")

    try:
        with pytest.raises(DependencyDown, match="RAY_AUTH_TOKEN_PATH"):
            job_list.run(there, None, Options(), None)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("supervisor", "stopped"), [("RUNNING", ["third"]), ("FAILED", [])])
def test_stopping_a_job_with_retries_stops_its_supervisor_first_and_then_the_attempt(
    supervisor: str, stopped: list[str]
) -> None:
    cluster = FakeCluster(supervisor=supervisor)

    outcome = job_list._stop(cluster, "third")  # type: ignore[arg-type]

    assert (outcome.status, cluster.stopped) == ("stopped", [*stopped, "third-attempt-2"])


def test_attempts_are_listed_with_the_job_that_they_are_of() -> None:
    rows = job_list._list(FakeCluster(), 10).details["jobs"]  # type: ignore[arg-type]

    assert [row["submission_id"] for row in rows] == ["one", "waiting", "third"]
    attempts = [{"submission_id": f"third-attempt-{number}"} for number in (1, 2)]
    assert rows[2]["attempts"] == [{**attempts[0], "state": "failed"}, {**attempts[1], "state": "running"}]
    assert (rows[0]["attempt"], rows[2]["attempt"]) == (None, 2)


def test_stopping_a_job_that_waits_does_not_wait_for_its_start() -> None:
    assert job_list._stop(FakeCluster(), "waiting").status == "stopping"  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [("stop",), ("delete", "one"), ("logs", "one", "two"), ("--tail", "one")])
def test_an_unknown_command_is_a_usage_error(context: Context, command: tuple[str, ...]) -> None:
    with pytest.raises(UsageFailure):
        job_list.run(context, None, Options(command=command), None)


def test_the_list_starts_no_cluster_where_none_runs(context: Context) -> None:
    with pytest.raises(DependencyDown, match="--address"):
        job_list.run(context, None, Options(), None)

    assert not context.store.cluster.exists()


def test_a_dashboard_that_is_down_is_a_dependency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["jobs", "--store", str(tmp_path), "--address", "http://127.0.0.1:9", "--json"])

    assert code == 5
    assert "127.0.0.1:9" in json.loads(capsys.readouterr().out)["error"]
