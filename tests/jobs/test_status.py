"""Status: the summary is printed once, and says how to resume a run that was interrupted or killed."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import status, sweep, train
from jobs.__main__ import main
from jobs.cli.context import Context
from jobs.tracking.client import TAG_FINGERPRINT, Status, Tracking
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
