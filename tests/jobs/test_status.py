"""Status: the summary is printed once, and says how to resume a run that was interrupted or killed."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from jobs import status, sweep, train
from jobs.__main__ import main
from jobs.cli.context import EXIT_DEPENDENCY_DOWN, Context, Store
from jobs.cluster.local_head import ClusterInfo, token_file
from jobs.cluster.processes import created_s
from jobs.serving.config import config_path
from jobs.tracking.client import TAG_FINGERPRINT, Status, Tracking
from jobs.tracking.liveness import TAG_HOST, TAG_PROCESS, TAG_SUBMISSION
from jobs.tracking.runs import open_run
from models.family import Family
from models.prepared import Prepared


@pytest.mark.usefixtures("toy_data")
def test_an_interrupted_run_is_shown_with_the_command_that_resumes_it(context: Context, toy: Family) -> None:
    run_id = _run(context, toy, train.Options(), ends="KILLED")

    found, lines = _status(context, toy)

    assert found["finished"][0]["resume"] == f"shopkeeper train toy --resume {run_id} --store {context.store.root}"
    assert f"(interrupted; `shopkeeper train toy --resume {run_id} --store {context.store.root}` resumes it)" in lines
    assert "  running   nothing" in lines


@pytest.mark.usefixtures("toy_data")
def test_a_run_that_may_have_been_killed_is_shown_with_the_command_that_resumes_it(
    context: Context, toy: Family
) -> None:
    run_id = _run(context, toy, sweep.Options(), tags={"job": "sweep"})

    found, lines = _status(context, toy)

    assert found["running"][0]["run_id"] == run_id
    assert (
        f"(if its process has ended, `shopkeeper sweep toy --resume {run_id} --store {context.store.root}` resumes it)"
        in lines
    )


@pytest.mark.usefixtures("toy_data")
def test_a_run_whose_process_was_killed_is_shown_as_dead(context: Context, toy: Family) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as driver:
        host, process = socket.gethostname(), _process(driver.pid)
        tags = {TAG_HOST: host, TAG_PROCESS: process}
        run_id = _run(context, toy, train.Options(), tags=tags)
        trial = Tracking(context).start_run("toy", name="trial", params={}, tags={}, parent_run_id=run_id)
        elsewhere = _run(context, toy, train.Options(), tags={TAG_HOST: "another", TAG_PROCESS: process})
        alive, _ = _status(context, toy)
        driver.kill()

    found, lines = _status(context, toy)

    assert ({one["run_id"] for one in alive["running"]}, alive["dead"]) == ({run_id, trial.run_id, elsewhere}, [])
    assert [one["run_id"] for one in found["running"]] == [elsewhere]
    assert {one["run_id"]: one["status"] for one in found["dead"]} == {run_id: "dead", trial.run_id: "dead"}
    assert f"dead      {run_id}" in lines
    assert f"(its process was lost; `shopkeeper train toy --resume {run_id} --store {context.store.root}`" in lines


class Dashboard(BaseHTTPRequestHandler):
    """A fake of Ray's dashboard that knows two jobs."""

    jobs: ClassVar = {"/api/jobs/lost": "FAILED", "/api/jobs/retried": "RUNNING"}

    def do_GET(self) -> None:
        self.send_response(200 if self.path in self.jobs else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"status": self.jobs.get(self.path)}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster(context: Context) -> Iterator[None]:
    """A record of a local cluster whose dashboard is the fake one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url, pid = f"http://127.0.0.1:{server.server_port}", os.getpid()
        info = ClusterInfo("", url, pid, created_s(pid), "", str(token_file(context.store)), {})
        (context.store.cluster / "cluster.json").write_text(json.dumps(dataclasses.asdict(info)))
        yield
        server.shutdown()


@pytest.mark.usefixtures("toy_data", "cluster")
@pytest.mark.parametrize(("job_id", "state"), [("lost", "dead"), ("retried", "running"), ("of-another", "dead")])
def test_a_submitted_run_is_dead_when_its_job_has_ended_or_else_its_process(
    context: Context, toy: Family, job_id: str, state: str
) -> None:
    here = {TAG_HOST: socket.gethostname(), TAG_PROCESS: f"1 0.00 {_process(os.getpid()).split()[2]}"}  # has ended
    tags = {} if job_id == "lost" else here
    run_id = _run(dataclasses.replace(context, submission_id=job_id), toy, train.Options(), tags=tags)

    found, _ = _status(context, toy)

    assert [one["run_id"] for one in found[state]] == [run_id]


@pytest.mark.usefixtures("toy_data")
def test_a_resumed_run_belongs_to_the_process_that_resumed_it(context: Context, toy: Family) -> None:
    submitted = dataclasses.replace(context, submission_id="nightly")
    run_id = _run(submitted, toy, train.Options(), tags={TAG_HOST: "another"}, ends="KILLED")

    Tracking(context).resume_run(run_id, reopen=True)

    tags = Tracking(context).run_info(run_id).tags
    assert (tags[TAG_HOST], tags[TAG_PROCESS], tags[TAG_SUBMISSION]) == (
        socket.gethostname(),
        _process(os.getpid()),
        "",
    )


def test_a_finished_run_and_one_without_a_plan_are_not_resumable(
    context: Context, toy: Family, toy_data: Prepared
) -> None:
    _run(context, toy, train.Options(), ends="FINISHED")
    Tracking(context).start_run("toy", name="trial", params={}, tags={}).end("KILLED")

    found, lines = _status(context, toy)

    assert [one["resume"] for one in found["finished"]] == [None, None]
    assert "--resume" not in lines


@pytest.mark.usefixtures("toy")
def test_the_summary_is_printed_once(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "toy", "--store", str(context.store.root)]) == 0

    printed = capsys.readouterr()
    assert printed.out.startswith("status toy: ok\nstore ")
    assert printed.err == ""


def _process(pid: int) -> str:
    return f"{pid} {created_s(pid):.2f} {Path('/proc/self/ns/pid').readlink()}"


def _run(
    context: Context, family: Family, options: Any, *, tags: dict[str, str] | None = None, ends: Status | None = None
) -> str:
    plan, run = open_run(context, family, name="run", config=family.Config(), options=options, tags=tags or {})
    if ends:
        run.end(ends)
    return plan.run_id


def _status(context: Context, family: Family) -> tuple[dict[str, Any], str]:
    """What status found for the family, and the summary for people."""
    outcome = status.run(context, family, status.Options(), None)
    assert outcome.summary is not None
    found: dict[str, Any] = outcome.details["families"][family.name]
    return found, outcome.summary


def test_a_run_has_its_name_and_one_on_other_data_says_so(context: Context, toy: Family, toy_data: Prepared) -> None:
    fingerprint = toy_data.schema(toy.Schema).fingerprint
    for name, data in (("sweep", fingerprint), ("train", "0" * 64)):
        Tracking(context).start_run("toy", name=name, params={}, tags={TAG_FINGERPRINT: data}).end("FINISHED")

    found, lines = _status(context, toy)

    assert {one["name"]: one["data"] for one in found["finished"]} == {"sweep": fingerprint, "train": "0" * 64}
    finished = [line for line in lines.splitlines() if line.startswith("  finished")]
    same, other = sorted(finished, key=len)
    assert other.endswith("train (on other data, 0000000000000000)") and same.endswith("sweep")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_another_user_may_not_read_is_said_and_the_rest_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        context = Context(store=Store(Path(directory)))
        for path in (context.store.cluster / "cluster.json", config_path(context.store)):
            path.parent.mkdir(parents=True)
            path.write_text("{}")
            path.chmod(0o600)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            os._exit(main(["status", "--store", directory]))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_DEPENDENCY_DOWN

        said = capfd.readouterr()
        assert "prepared  nothing" in said.out and "cluster   unknown" in said.out
        assert f"unknown: {config_path(context.store)}: Permission denied" in said.out
        assert "cluster.json: Permission denied" in said.err
