"""The engine of steps: what is run and what is left out, with a runner that starts no processes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs import pipeline
from jobs.cli.context import Context, Failure, Store, UsageFailure
from jobs.pipeline import Options, PipelineFailed
from models.prepared import Prepared
from tests.jobs.pipelines.conftest import NIGHTLY, Run, statuses
from tests.kit.step_runner import StepRunner, error


def test_steps_run_one_after_the_other_with_the_results_of_earlier_ones(
    run: Run, runner: StepRunner, store: Store
) -> None:
    outcome = run()

    assert runner.verbs == ["prepare", "train", "promote", "evaluate", "erase"]
    assert runner.commands[2] == ["promote", "toy", "--model=runs:/r1", f"--store={store.root}"]
    assert runner.commands[3][2] == "--model=models:/toy/1"
    assert [one["status"] for one in outcome.details["steps"]] == ["done"] * 5
    assert [one["result"] for one in outcome.details["steps"]] == ["ok", "ok", "promoted", "ok", "erased"]
    assert "the log of train" in Path(outcome.details["steps"][1]["log"]).read_text(encoding="utf-8")


def test_a_second_run_repeats_only_what_is_always_run(run: Run, runner: StepRunner, store: Store) -> None:
    run()
    runner.commands.clear()

    run()

    assert runner.verbs == ["erase"]
    assert statuses(store)["train"] == "unchanged"


def test_a_moved_store_is_the_same_store(run: Run, runner: StepRunner, store: Store, tmp_path: Path) -> None:
    run("steps:\n  - run: train toy\n")
    moved = Store(store.root.rename(tmp_path / "elsewhere"))
    runner.commands.clear()

    pipeline.run(Context(moved), None, Options(command=("nightly.yaml",)), None, runner=runner)

    assert runner.verbs == []


def test_a_changed_raw_file_is_prepared_but_equal_data_are_not_trained_on_again(
    run: Run, runner: StepRunner, toy_raw: Path
) -> None:
    run()
    runner.commands.clear()
    os.utime(toy_raw, (1, 1))
    runner.facts["prepare"]["status"] = "unchanged"

    run()

    assert runner.verbs == ["prepare", "erase"]


def test_new_prepared_data_are_trained_on(run: Run, runner: StepRunner, toy_raw: Path) -> None:
    run()
    runner.commands.clear()
    os.utime(toy_raw, (1, 1))
    runner.facts["prepare"]["fingerprint"] = "f2"

    run()

    assert runner.verbs == ["prepare", "train", "promote", "evaluate", "erase"]


def test_a_changed_flag_runs_its_step_and_what_builds_on_it(run: Run, runner: StepRunner) -> None:
    run()
    runner.commands.clear()
    runner.facts["train"]["run_id"] = "r2"

    run(NIGHTLY.replace("epochs: 3", "epochs: 4"))

    assert runner.verbs == ["train", "promote", "evaluate", "erase"]
    assert "--model=runs:/r2" in runner.commands[1]


@pytest.mark.parametrize("what", ["report", "data", "current"])
def test_a_step_whose_output_is_gone_runs_again(
    what: str, run: Run, runner: StepRunner, store: Store, toy_data: Prepared, tmp_path: Path
) -> None:
    run()
    runner.commands.clear()
    if what == "report":
        (tmp_path / "report.html").unlink()
    elif what == "data":
        toy_data.path.rename(tmp_path / "moved")
    else:
        (store.data("toy") / "CURRENT").write_text("other", encoding="utf-8")

    run()

    assert runner.verbs[0] == ("evaluate" if what == "report" else "prepare")


@pytest.mark.parametrize(("answer", "runs"), [({"version": "1"}, False), ({"version": "2"}, True), (None, True)])
def test_a_deployment_is_left_out_only_while_its_endpoint_answers_with_that_version(
    answer: dict[str, str] | None, runs: bool, run: Run, runner: StepRunner
) -> None:
    text = "steps:\n  - run: deploy toy\n    flags: {model: 'models:/toy/1'}\n"
    with answering(answer) as url:
        runner.facts["deploy"] = {"status": "ok", "version": "1", "url": url}
        run(text)
        runner.commands.clear()

        run(text)

    assert (runner.verbs == ["deploy"]) == runs


@contextlib.contextmanager
def answering(answer: dict[str, str] | None) -> Iterator[str]:
    """The URL of an endpoint that answers every GET with this JSON, or with 503."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answer else 503)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_fresh_runs_everything(run: Run, runner: StepRunner) -> None:
    run()
    runner.commands.clear()

    run(fresh=True)

    assert runner.verbs == ["prepare", "train", "promote", "evaluate", "erase"]


def test_a_step_that_takes_whichever_model_there_is_always_runs(run: Run, runner: StepRunner) -> None:
    text = "steps:\n  - run: evaluate toy\n  - {id: named, run: evaluate toy, flags: {model: 'models:/toy@champion'}}\n"
    run(text)

    run(text)

    assert runner.verbs == ["evaluate"] * 4


def test_raw_data_on_another_machine_are_always_prepared(run: Run, runner: StepRunner) -> None:
    text = "steps:\n  - run: prepare toy\n    flags: {raw: 's3://KEY:SECRET@shop/log.csv'}\n"
    run(text)

    outcome = run(text)

    assert runner.verbs == ["prepare"] * 2
    assert "--raw=s3://KEY:SECRET@shop/log.csv" in runner.commands[1]
    assert "SECRET" not in json.dumps(outcome.details)
    assert "SECRET" not in Path(outcome.details["record"]).read_text(encoding="utf-8")


def test_the_best_settings_of_a_sweep_become_flags_unless_the_step_has_its_own(run: Run, runner: StepRunner) -> None:
    run(
        """
        steps:
          - run: sweep toy
          - run: train toy
            flags_from: sweep.best_config
            flags: {epochs: 40}
        """
    )

    assert runner.commands[1][:5] == ["train", "toy", "--network=hidden", "--learning-rate=0.02", "--epochs=40"]


def test_a_gate_that_is_not_met_stops_what_follows_and_is_not_tried_again(
    run: Run, runner: StepRunner, store: Store, pauses: list[float]
) -> None:
    runner.answers["promote"] = [error(4, "not better than champion 1")]

    with pytest.raises(PipelineFailed) as caught:
        run()

    assert caught.value.exit_code == 4
    assert "promote failed with exit code 4: not better than champion 1" in str(caught.value)
    assert "the champion is what it was" in str(caught.value)
    assert "not run: evaluate, erase" in str(caught.value)
    assert runner.verbs == ["prepare", "train", "promote"]
    assert pauses == []


def test_a_gate_that_is_not_met_can_be_accepted_and_a_condition_leaves_out_what_follows(
    run: Run, runner: StepRunner, store: Store
) -> None:
    runner.answers["promote"] = [error(4)]

    outcome = run(
        """
        steps:
          - run: train toy
          - run: promote toy
            flags: {model: "${train.model}"}
            accept: 4
          - run: evaluate toy
            if: promote.status == promoted
          - {id: card, run: evaluate toy, flags: {report: "${evaluate.report}"}}
          - run: erase --pending
        """
    )

    assert outcome.status == "ok"
    assert runner.verbs == ["train", "promote", "erase"]
    assert statuses(store) == {
        "train": "done",
        "promote": "done",
        "evaluate": "skipped",
        "card": "skipped",
        "erase": "done",
    }
    assert outcome.details["steps"][1]["result"] == "gate-not-met"
    assert outcome.details["steps"][2]["reason"].startswith("promote.status is gate-not-met")


@pytest.mark.parametrize(("condition", "runs"), [("> 0.7", True), ("> 0.8", False), ("== 0.75", True)])
def test_a_condition_may_compare_a_metric(condition: str, runs: bool, run: Run, runner: StepRunner) -> None:
    run(f"steps:\n  - run: train toy\n  - run: erase --pending\n    if: train.metrics.val_accuracy {condition}\n")

    assert (runner.verbs == ["train", "erase"]) == runs


def test_a_metric_that_is_missing_fails_the_step_that_asks_for_it(run: Run) -> None:
    text = "steps:\n  - run: train toy\n  - run: erase --pending\n    if: train.metrics.val_loss < 1\n"

    with pytest.raises(PipelineFailed, match="no result 'val_loss'") as caught:
        run(text)

    assert caught.value.exit_code == 1


def test_a_branch_that_does_not_need_the_failed_step_goes_on(run: Run, runner: StepRunner, store: Store) -> None:
    runner.answers["train"] = [error(1)]

    with pytest.raises(PipelineFailed):
        run(
            """
            steps:
              - run: train toy
              - run: promote toy
              - {run: status, needs: []}
            """
        )

    assert runner.verbs == ["train", "status"]
    assert statuses(store) == {"train": "failed", "promote": "not run", "status": "done"}


def test_a_dry_run_shows_the_plan_and_writes_nothing(run: Run, runner: StepRunner, store: Store) -> None:
    before = sorted(store.root.rglob("*"))

    outcome = run(dry_run=True)

    assert runner.commands == []
    assert sorted(store.root.rglob("*")) == before
    plan = outcome.details["plan"]
    assert [(one["id"], one["action"]) for one in plan] == [
        (name, "run") for name in ("prepare", "train", "promote", "evaluate", "erase")
    ]
    assert plan[2]["command"] == f"shopkeeper promote toy '--model=${{train.model}}' --store={store.root}"


def test_a_dry_run_after_a_run_shows_what_is_unchanged(run: Run) -> None:
    run()

    plan = run(dry_run=True).details["plan"]

    assert [one["action"] for one in plan] == ["unchanged"] * 4 + ["run"]


def test_the_status_shows_the_last_run_of_each_pipeline_and_its_steps(
    run: Run, runner: StepRunner, store: Store
) -> None:
    runner.answers["promote"] = [error(4, "not better")]
    with pytest.raises(PipelineFailed):
        run()

    listed = pipeline.run(Context(store), None, Options(command=("status",)), None)
    shown = pipeline.run(Context(store), None, Options(command=("status", "nightly")), None)

    assert listed.details["pipelines"]["nightly"]["state"] == "failed"
    assert shown.details["run_exit_code"] == 4
    assert [one["status"] for one in shown.details["steps"]] == ["done", "done", "failed", "not run", "not run"]
    assert "not better (log: " in str(shown.summary)
    with pytest.raises(Failure, match=r"did you mean nightly\?"):
        pipeline.run(Context(store), None, Options(command=("status", "nihgtly")), None)


def test_a_damaged_record_is_named(run: Run, store: Store) -> None:
    path = Path(run().details["record"])
    path.write_text("{", encoding="utf-8")

    with pytest.raises(Failure, match=r"is damaged .* move it away"):
        run()


def test_a_dashboard_is_no_address_of_steps(run: Run, store: Store) -> None:
    options = Options(command=("nightly.yaml",))

    with pytest.raises(UsageFailure, match="submit --address http://head:8265 pipeline"):
        pipeline.run(Context(store, address="http://head:8265"), None, options, None)


def test_the_cluster_is_passed_on_to_the_verbs_that_take_one(run: Run, runner: StepRunner, store: Store) -> None:
    context = Context(store, address="10.0.0.1:6379", name_prefix="shop-a.")
    run("steps:\n  - run: train toy\n  - run: status\n")
    runner.commands.clear()

    pipeline.run(context, None, Options(command=("nightly.yaml",), fresh=True), None, runner=runner)

    assert "--address=10.0.0.1:6379" in runner.commands[0]
    assert "--name-prefix=shop-a." in runner.commands[1]
    assert not [word for word in runner.commands[1] if word.startswith("--address")]
