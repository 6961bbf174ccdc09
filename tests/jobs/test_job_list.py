"""`shopkeeper jobs` without a cluster: what cannot be done, and what is said then."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import job_list
from jobs.__main__ import main
from jobs.cli.context import Context, DependencyDown, UsageFailure
from jobs.job_list import Options
from jobs.submission.client import find_job


class FakeCluster:
    """A fake of Ray's job client with one job that has ended."""

    def get_job_info(self, job_id: str) -> Any:
        if job_id != "one":
            raise RuntimeError("Request failed with status code 404: Job nope does not exist.")
        return SimpleNamespace(status="SUCCEEDED", driver_exit_code=0, message="")

    def stop_job(self, job_id: str) -> bool:
        return False


def test_an_unknown_job_is_a_usage_error_that_names_the_list() -> None:
    with pytest.raises(UsageFailure, match=r"no job 'nope'.*`shopkeeper jobs`"):
        find_job(FakeCluster(), "nope")  # type: ignore[arg-type]


def test_a_job_that_has_ended_cannot_be_stopped() -> None:
    with pytest.raises(UsageFailure, match="one has ended already"):
        job_list._stop(FakeCluster(), "one")  # type: ignore[arg-type]


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
