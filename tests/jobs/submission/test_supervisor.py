"""The supervisor of a job with retries, on a cluster whose jobs end as a test says."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.cli.context import Failure, Interrupted, Outcome, UsageFailure
from jobs.submission.client import JobFailed, was_lost
from jobs.submission.supervisor import Task, supervise

RUN_ID = "0123456789abcdef0123456789abcdef"
STARTED = f"10:00:00 I run {RUN_ID} in /store/toy/runs/{RUN_ID}\n"
LINE = {"verb": "train", "family": "toy", "status": "ok", "run_id": RUN_ID, "metrics": {"val_x": 0.5}, "exit_code": 0}
DONE = ("SUCCEEDED", 0, None, STARTED + json.dumps(LINE))
KILLED = ("FAILED", -9, None, STARTED)
NODE_LOST = ("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", STARTED)


class FakeCluster:
    """A fake of Ray's job client on which the attempts of the job `one` end one after the other as given."""

    def __init__(self, *attempts: Any, command: tuple[str, ...] = ("train", "toy"), retries: int = 2) -> None:
        task = Task(command=command, before=("python",), after=("--json",), retries=retries, cpus=1.5)
        self.ends = list(attempts)
        self.jobs = {"one": job("one", "RUNNING", metadata={"team": "search", **task.to_metadata()})}
        self.logs: dict[str, str] = {}
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def submit_job(self, **fields: Any) -> str:
        self.submitted.append(fields)
        job_id = str(fields["submission_id"])
        status, code, error_type, self.logs[job_id] = self.ends.pop(0)
        self.jobs[job_id] = job(job_id, status, code=code, error_type=error_type, metadata=fields["metadata"])
        return job_id

    def get_job_info(self, job_id: str) -> Any:
        return self.jobs[job_id]

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield self.logs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return self.logs[job_id]

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True


def job(job_id: str, status: str, *, code: int | None = None, error_type: str | None = None, **fields: Any) -> Any:
    return SimpleNamespace(
        submission_id=job_id,
        status=status,
        driver_exit_code=code,
        error_type=error_type,
        message="",
        start_time=0,
        runtime_env={"working_dir": "gcs://code.zip"},
        **fields,
    )


def supervised(cluster: FakeCluster) -> Outcome:
    pauses: list[float] = []
    return supervise(cluster, "one", pause=pauses.append)  # type: ignore[arg-type]


def commands(cluster: FakeCluster) -> list[list[str]]:
    return [shlex.split(fields["entrypoint"]) for fields in cluster.submitted]


@pytest.mark.parametrize("lost", [KILLED, NODE_LOST, ("FAILED", 6, None, STARTED)], ids=["killed", "node", "told to"])
def test_a_training_whose_driver_dies_is_submitted_again_and_resumes_its_run(lost: Any) -> None:
    cluster = FakeCluster(lost, DONE)

    outcome = supervised(cluster)

    first, second = commands(cluster)
    assert first == ["python", "train", "toy", "--json"]
    assert second == ["python", "train", "toy", "--resume", RUN_ID, "--json"]
    assert (outcome.run_id, outcome.metrics, outcome.details["attempts"]) == (RUN_ID, {"val_x": 0.5}, 2)


def test_attempts_have_the_code_the_resources_and_the_metadata_of_the_job() -> None:
    cluster = FakeCluster(KILLED, DONE)

    supervised(cluster)

    assert [fields["submission_id"] for fields in cluster.submitted] == ["one-attempt-1", "one-attempt-2"]
    for fields in cluster.submitted:
        assert fields["runtime_env"] == {"working_dir": "gcs://code.zip"}
        assert fields["entrypoint_num_cpus"] == 1.5
        assert fields["metadata"] == {"team": "search", "shopkeeper_attempt_of": "one"}


def test_a_driver_that_dies_before_its_run_began_starts_anew() -> None:
    cluster = FakeCluster(("FAILED", -9, None, "no run yet\n"), DONE)

    supervised(cluster)

    assert commands(cluster) == 2 * [["python", "train", "toy", "--json"]]


@pytest.mark.parametrize("command", [("prepare", "toy"), ("train", "toy", "--resume", "mine")])
def test_a_verb_without_resume_or_with_a_given_one_is_repeated_as_it_is(command: tuple[str, ...]) -> None:
    cluster = FakeCluster(KILLED, DONE, command=command)

    supervised(cluster)

    assert commands(cluster) == 2 * [["python", *command, "--json"]]


def test_a_verb_that_fails_by_itself_is_not_repeated_and_its_exit_code_is_returned() -> None:
    line = json.dumps({**LINE, "status": "failed", "exit_code": 4, "error": "not better"})
    cluster = FakeCluster(("FAILED", 4, None, line), DONE)

    with pytest.raises(JobFailed, match="not better") as caught:
        supervised(cluster)

    assert (caught.value.exit_code, len(cluster.submitted)) == (4, 1)


def test_a_stopped_attempt_is_not_repeated() -> None:
    cluster = FakeCluster(("STOPPED", None, None, STARTED), DONE)

    with pytest.raises(Failure, match="one-attempt-1 was stopped"):
        supervised(cluster)

    assert len(cluster.submitted) == 1


def test_when_all_attempts_are_lost_the_run_can_be_resumed() -> None:
    cluster = FakeCluster(KILLED, NODE_LOST, KILLED)

    with pytest.raises(Interrupted, match="all 3 attempts of one were lost") as caught:
        supervised(cluster)

    assert caught.value.details["run_id"] == RUN_ID


def test_a_supervisor_that_is_stopped_stops_its_attempt() -> None:
    cluster = FakeCluster(KILLED, DONE)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="not submitted again"):
        supervise(cluster, "one", pause=interrupt)  # type: ignore[arg-type]

    assert (cluster.stopped, len(cluster.submitted)) == (["one-attempt-1"], 1)


def test_a_job_without_retries_has_nothing_to_supervise() -> None:
    cluster = FakeCluster()
    cluster.jobs["one"].metadata = {}

    with pytest.raises(UsageFailure, match="--retries"):
        supervised(cluster)


@pytest.mark.parametrize(
    ("code", "error_type", "lost"),
    [
        (-9, None, True),
        (137, None, True),
        (6, None, True),
        (1, None, False),
        (130, None, False),
        (None, "JOB_SUPERVISOR_ACTOR_DIED", True),
        (None, "JOB_SUPERVISOR_ACTOR_START_TIMEOUT", False),
        (None, "RUNTIME_ENV_SETUP_FAILURE", False),
    ],
)
def test_only_what_killed_a_driver_counts_as_a_loss(code: int | None, error_type: str | None, lost: bool) -> None:
    assert was_lost(job("one", "FAILED", code=code, error_type=error_type)) == lost
