"""Failures and interruptions: what is tried again, what is resumed, and what is not run twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli.context import Store
from jobs.pipeline import PipelineFailed
from jobs.pipelines.process import Ended
from tests.jobs.pipelines.conftest import NIGHTLY, Run, begin_run, statuses
from tests.kit.step_runner import Killed, StepRunner, done_but_killed, error, ok


def test_a_failure_that_may_pass_is_tried_again_with_growing_pauses(
    run: Run, runner: StepRunner, pauses: list[float]
) -> None:
    runner.answers["train"] = [error(5, "MLflow does not answer"), error(6), ok(run_id="r9")]

    outcome = run(NIGHTLY.replace("epochs: 3}", "epochs: 3}\n        retries: 3\n        pause_s: 10"))

    assert pauses == [10, 20]
    assert (outcome.details["steps"][1]["attempts"], outcome.details["steps"][1]["status"]) == (3, "done")


def test_a_failure_that_lasts_gives_its_exit_code_after_all_attempts(
    run: Run, runner: StepRunner, pauses: list[float]
) -> None:
    runner.answers["train"] = [error(5, "MLflow does not answer")] * 9

    with pytest.raises(PipelineFailed, match="MLflow does not answer") as caught:
        run()

    assert caught.value.exit_code == 5
    assert runner.verbs.count("train") == 3
    assert pauses == [30, 60]


@pytest.mark.parametrize("exit_code", [1, 2, 3, 4])
def test_a_failure_that_would_come_again_is_not_tried_again(
    exit_code: int, run: Run, runner: StepRunner, pauses: list[float]
) -> None:
    runner.answers["prepare"] = [error(exit_code)]

    with pytest.raises(PipelineFailed) as caught:
        run()

    assert (caught.value.exit_code, runner.verbs, pauses) == (exit_code, ["prepare"], [])


def test_a_step_beyond_its_time_is_not_tried_again_and_is_resumed_by_the_next_run(
    run: Run, runner: StepRunner, store: Store
) -> None:
    text = NIGHTLY.replace("epochs: 3}", "epochs: 3}\n        timeout_minutes: 1.5")
    runner.answers["train"] = [Ended(6, {}, timed_out=True)]
    with pytest.raises(PipelineFailed, match=r"it did not end within 1\.5 minutes") as caught:
        run(text)
    begin_run(store, runner.commands[-1])

    run(text)

    assert caught.value.exit_code == 6
    assert "--resume=abc" in runner.commands[2]


def test_a_verb_that_was_killed_is_resumed(run: Run, runner: StepRunner, store: Store) -> None:
    def killed(log: Path) -> Ended:
        begin_run(store, runner.commands[-1])
        return error(-9)

    runner.answers["train"] = [killed]

    run()

    trains = [command for command in runner.commands if command[0] == "train"]
    assert "--resume=abc" in trains[1]
    assert [word for word in trains[0] if "--name" in word] == [word for word in trains[1] if "--name" in word]


@pytest.mark.parametrize("how", [KeyboardInterrupt(), Killed()])
def test_running_again_resumes_a_training_and_leaves_out_what_is_done(
    how: BaseException, run: Run, runner: StepRunner, store: Store
) -> None:
    runner.answers["train"] = [how]
    with pytest.raises(type(how)):
        run()
    begin_run(store, runner.commands[-1])
    runner.commands.clear()

    run()

    assert runner.verbs == ["train", "promote", "evaluate", "erase"]
    assert "--resume=abc" in runner.commands[0]


def test_an_interrupted_training_with_other_settings_starts_anew(run: Run, runner: StepRunner, store: Store) -> None:
    runner.answers["train"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt, match=r"`shopkeeper pipeline nightly\.yaml` resumes it"):
        run()
    begin_run(store, runner.commands[-1])

    run(NIGHTLY.replace("epochs: 3", "epochs: 4"))

    (trained,) = [command for command in runner.commands if "--epochs=4" in command]
    assert not [word for word in trained if word.startswith("--resume")]


def test_a_verb_that_was_done_when_the_pipeline_was_killed_is_not_run_again(
    run: Run, runner: StepRunner, store: Store
) -> None:
    runner.answers["promote"] = [done_but_killed(status="promoted", version="7", model="models:/toy/7")]
    with pytest.raises(Killed):
        run()
    runner.commands.clear()

    run()

    assert runner.verbs == ["evaluate", "erase"]
    assert "--model=models:/toy/7" in runner.commands[0]


def test_a_promotion_that_was_cut_off_after_it_took_effect_counts_as_promoted(
    run: Run, runner: StepRunner, store: Store
) -> None:
    text = NIGHTLY.replace("run: evaluate toy", "run: evaluate toy\n        if: promote.status == promoted")
    runner.answers["promote"] = [Killed(), ok(status="unchanged", version="7", model="models:/toy/7")]
    with pytest.raises(Killed):
        run(text)

    run(text)

    assert statuses(store)["evaluate"] == "done"
