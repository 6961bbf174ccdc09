"""Submission with a fake cluster: the job request, the job's log and its result."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import submit
from jobs.__main__ import main, read
from jobs.cli.context import Context, DependencyDown, Failure, Interrupted, Store, UsageFailure
from jobs.cluster.packages import copy_packages
from jobs.submission import client, watching
from jobs.submission.supervisor import task_of
from jobs.submit import Options
from jobs.tracking.runs import commit_tags
from models.family import Family
from tests.conftest import CHECKOUT

LINE = {"verb": "train", "family": "toy", "status": "ok", "run_id": "abc", "metrics": {"val_x": 0.5}, "exit_code": 0}


class FakeJobs:
    """A fake of Ray's job client: a log in chunks, then the job's status."""

    def __init__(self, chunks: list[str], *, status: str = "SUCCEEDED", exit_code: int | None = 0) -> None:
        self.chunks = chunks
        self.info = SimpleNamespace(status=status, driver_exit_code=exit_code, message="", submission_id="job")
        self.log = ""

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for chunk in self.chunks:
            yield chunk

    def get_job_info(self, job_id: str) -> Any:
        return self.info

    def get_job_logs(self, job_id: str) -> str:
        return self.log


def context(tmp_path: Path, **fields: Any) -> Context:
    return Context(store=Store(tmp_path / "my store"), **fields)


def test_unknown_flags_of_submit_belong_to_the_verb() -> None:
    invocation = read(["submit", "train", "toy", "--workers", "2", "--no-wait", "--store", "/shop/store"])

    assert invocation.options == Options(command=("train", "toy", "--workers", "2"), wait=False)
    assert invocation.everywhere.store == "/shop/store"


def test_a_dry_run_asked_for_after_the_command_submits_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["submit", "train", "toy", "--workers", "2", "--address", "http://127.0.0.1:9", "--dry-run", "--json"]

    assert main(line) == 0

    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["options"]["command"]) == ("dry-run", ["train", "toy", "--workers", "2"])


def test_the_entrypoint_names_the_store_and_is_quoted(tmp_path: Path) -> None:
    remote = context(tmp_path, address="http://127.0.0.1:8265")

    command = ("prepare", "toy", "--raw", "a; rm b.csv")
    words = shlex.split(submit._work(remote, Options(), command, job_id="one", metadata={})["entrypoint"])

    assert words == [
        *("python", "-m", "jobs", "prepare", "toy", "--raw", "a; rm b.csv"),
        *("--store", str(tmp_path / "my store"), "--json"),
    ]


def test_a_job_with_retries_is_a_supervisor_on_the_head_which_reserves_no_cpu(tmp_path: Path) -> None:
    options = Options(retries=2, entrypoint_cpus=1.5)
    work = submit._work(context(tmp_path), options, ("train", "toy"), job_id="one", metadata={"team": "search"})

    assert work["entrypoint_num_cpus"] is None
    assert list(work["entrypoint_resources"]) == ["node:__internal_head__"]
    assert "jobs supervise one --store" in work["entrypoint"]
    task = task_of(SimpleNamespace(metadata=work["metadata"]))
    assert task is not None
    assert (task.command, task.retries, task.cpus) == (("train", "toy"), 2, 1.5)
    assert work["metadata"]["team"] == "search"


def test_negative_retries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="--retries -1"):
        submit.run(context(tmp_path), None, Options(command=("status",), retries=-1), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entrypoint_cpus": float("nan")}, "--entrypoint-cpus nan is no number of CPUs"),
        ({"entrypoint_cpus": -1.0}, "--entrypoint-cpus -1 is no number of CPUs"),
        ({"entrypoint_resources": ("x=inf",)}, "'x=inf' is not NAME=AMOUNT"),
        ({"entrypoint_resources": ("CPU=2",)}, "use --entrypoint-cpus"),
        ({"command": (), "env": ("status",)}, "--env status: this flag takes a word, here the verb"),
    ],
)
def test_what_no_node_can_reserve_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageFailure, match=message):
        submit.run(context(tmp_path), None, Options(**{"command": ("status",), **options}), None)


def test_only_our_packages_are_uploaded_with_all_modules(tmp_path: Path) -> None:
    copy_packages(tmp_path)

    copied = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in copied} == {"jobs", "models", "serve"}
    assert copied >= {path.relative_to(CHECKOUT) for path in (CHECKOUT / "jobs").rglob("*.py")}
    assert not [path for path in copied if path.suffix == ".pyc"]


def test_the_log_is_printed_and_the_json_line_returned(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"epoch 1\nepoch 2\n{json.dumps(LINE)}\n"
    chunks = [text[start : start + 7] for start in range(0, len(text), 7)]

    line = asyncio.run(watching.follow(FakeJobs(chunks), "job"))

    assert line == LINE
    captured = capsys.readouterr()
    assert captured.err == "epoch 1\nepoch 2\n"
    assert captured.out == ""


class LostNode(FakeJobs):
    """A fake of Ray's job client whose stream of a log breaks off, or hangs, when the node of the job is lost."""

    def __init__(self, *, hangs: bool) -> None:
        super().__init__(["epoch 1\n"], status="RUNNING", exit_code=None)
        self.hangs = hangs
        self.answers: list[Any] = [RuntimeError("the dashboard restarts"), "RUNNING", "FAILED"]

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield self.chunks[0]
        if self.hangs:
            await asyncio.Event().wait()
        raise RuntimeError("the connection was closed")

    def get_job_info(self, job_id: str) -> Any:
        answer = self.answers.pop(0) if self.answers else self.info.status
        if isinstance(answer, RuntimeError):
            raise answer
        self.info.status = answer
        return self.info


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "breaks off"])
def test_following_a_job_ends_with_it_when_its_node_is_lost(hangs: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lost, seen = LostNode(hangs=hangs), list[str]()

    line = asyncio.run(watching.watch(lost, "job", seen=seen.append, poll_s=0.0, max_lateness_s=0.05))

    assert (line, seen, lost.answers) == (None, ["epoch 1"], [])
    assert capsys.readouterr().err.startswith("epoch 1\n")


def test_the_result_of_a_job_whose_log_broke_off_is_read_at_its_end() -> None:
    lost = LostNode(hangs=False)
    lost.log = f"epoch 1\n{json.dumps(LINE)}\n"

    line = asyncio.run(watching.watch(lost, "job", poll_s=0.0, max_lateness_s=0.05))

    assert line == LINE


@pytest.mark.parametrize(
    ("error", "limit_s", "shown", "message"),
    [
        ("connection refused", 0.0, DependencyDown, "`jobs attach job` follows it again; if it is lost, submit"),
        ("status code 404", 900.0, Interrupted, "the cluster has no job job any more: its control service has lost"),
    ],
)
def test_a_cluster_that_does_not_come_back_is_not_waited_for_forever(
    error: str, limit_s: float, shown: type[Failure], message: str
) -> None:
    lost, run_id = LostNode(hangs=True), "0123456789abcdef" * 2
    lost.chunks[0] = f"12:00:00 I run {run_id} in /store\n"
    lost.answers = ["RUNNING", *[RuntimeError(error)] * 1000]
    silence = watching.Silence("job", limit_s=limit_s)

    with pytest.raises(shown, match=message) as caught:
        asyncio.run(watching.watch(lost, "job", poll_s=0.01, silence=silence))

    assert caught.value.details == {"run_id": run_id, "resume": run_id}
    assert f"--resume {run_id}" in str(caught.value)


def test_a_silent_cluster_is_named_once_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shopkeeper")
    silence = watching.Silence("job", said_after_s=-1.0)

    for _ in range(3):
        silence.goes_on(RuntimeError("connection refused"))
    silence.ended()
    silence.ended()

    assert [message.split(" (")[0] for message in caplog.messages] == [
        "the cluster has not answered for 0 s",
        "the cluster answers again",
    ]


def test_a_log_without_a_json_line_is_printed_completely(capsys: pytest.CaptureFixture[str]) -> None:
    line = asyncio.run(watching.follow(FakeJobs(['{"verb": broken\n', "Killed"]), "job"))

    assert line is None
    assert capsys.readouterr().err == '{"verb": broken\nKilled\n'


def test_the_job_s_result_is_returned() -> None:
    outcome = client.outcome_of({**LINE, "seconds": 3}, 0, {"job_id": "j"})

    assert (outcome.status, outcome.run_id, outcome.metrics) == ("ok", "abc", {"val_x": 0.5})
    assert outcome.details == {"seconds": 3, "job_id": "j"}


@pytest.mark.parametrize("exit_code", [2, 3, 4, 5, 6])
def test_the_job_s_exit_code_is_returned(exit_code: int) -> None:
    line = {**LINE, "status": "failed", "exit_code": exit_code, "error": "not better"}

    with pytest.raises(Failure, match="not better") as caught:
        client.outcome_of(line, exit_code, {"job_id": "j"})

    assert caught.value.exit_code == exit_code
    assert caught.value.details["job_id"] == "j"


@pytest.mark.parametrize(
    ("status", "driver", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 4, 4), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_a_killed_job_has_an_exit_code(status: str, driver: int | None, expected: int) -> None:
    assert client.exit_code_of(FakeJobs([], status=status, exit_code=driver), "job") == expected


@pytest.mark.parametrize("command", [(), ("submit", "train"), ("demo",), ("stop",)])
def test_verbs_that_cannot_be_submitted_are_rejected(tmp_path: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(UsageFailure, match="submit"):
        submit.run(context(tmp_path), None, Options(command=command), None)


def test_a_cluster_that_does_not_respond_is_a_dependency_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(DependencyDown, match=r"127\.0\.0\.1:9"):
        submit.run(context(tmp_path, address="http://127.0.0.1:9"), None, Options(command=("status",)), None)


@pytest.mark.parametrize(
    "command",
    [
        ("train", "toy", "--worker", "2"),
        ("train", "toy", "--workers", "two"),
        ("train", "nothing"),
        ("tran", "toy"),
        ("train", "toy", "extra"),
        ("train", "toy", "--help"),
    ],
)
def test_a_mistake_in_the_verb_is_found_before_anything_is_uploaded(
    toy: Family, tmp_path: Path, command: tuple[str, ...]
) -> None:
    unreachable = context(tmp_path, address="http://127.0.0.1:9")

    with pytest.raises(UsageFailure):
        submit.run(unreachable, None, Options(command=command), None)


def test_a_family_that_only_the_cluster_has_is_submitted_unchecked(tmp_path: Path) -> None:
    unreachable = context(tmp_path, address="http://127.0.0.1:9")

    with pytest.raises(DependencyDown):
        submit.run(unreachable, None, Options(command=("train", "nothing"), check=False), None)


def test_credentials_in_the_command_are_refused_and_not_quoted(tmp_path: Path) -> None:
    command = ("prepare", "toy", "--raw", "s3://KEY:hunter2@bucket/log.csv")

    with pytest.raises(UsageFailure, match="credentials") as caught:
        submit.run(context(tmp_path), None, Options(command=command, check=False), None)

    assert "hunter2" not in str(caught.value)


def test_a_dry_run_shows_names_of_variables_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "status", "--env", "TOKEN=hunter2", "--dry-run", "--json"]) == 0

    out = capsys.readouterr().out
    assert json.loads(out)["options"]["env"] == ["TOKEN"]
    assert "hunter2" not in out


@pytest.mark.parametrize("job_id", ["a/b", "", "-x", "a b"])
def test_an_invalid_submission_id_is_refused(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(UsageFailure, match="--submission-id"):
        submit.run(context(tmp_path), None, Options(command=("status",), submission_id=job_id), None)


def test_runs_are_tagged_with_the_commit_of_the_checkout_they_were_submitted_from(tmp_path: Path) -> None:
    job = context(tmp_path, submission_id="nightly-1", git_commit="abc+changes")

    assert commit_tags(job) == {"git_commit": "abc+changes", "mlflow.source.git.commit": "abc"}
    assert commit_tags(context(tmp_path)) == {}
