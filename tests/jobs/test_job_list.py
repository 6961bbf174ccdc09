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


class FakeCluster:
    """A fake of Ray's job client with a job that has ended and one that waits."""

    def get_job_info(self, job_id: str) -> Any:
        if job_id == "waiting":
            return SimpleNamespace(status="PENDING", driver_exit_code=None, message="")
        if job_id != "one":
            raise RuntimeError("Request failed with status code 404: Job nope does not exist.")
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0, message="")

    def stop_job(self, job_id: str) -> bool:
        return job_id == "waiting"


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
