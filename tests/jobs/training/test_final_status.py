"""The status of a run in MLflow after its training ended in any way."""

from __future__ import annotations

import errno
import json

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from jobs import train
from jobs.__main__ import main
from jobs.cli.context import Context, Failure, Interrupted, details_of
from jobs.tracking.client import Tracking
from jobs.training.loop import TrainingDiverged
from jobs.training.recording import record_final_status


def test_a_run_that_ends_without_an_error_is_finished(context: Context) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})

    with record_final_status(run, "resume it", directory=context.store.root):
        pass

    assert Tracking(context).run_info(run.run_id).status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "shown", "status"),
    [
        (ValueError("a bad value"), ValueError, "FAILED"),
        (SystemExit(3), SystemExit, "FAILED"),
        (TrainingDiverged("the loss is NaN"), Failure, "FAILED"),
        (Failure("too many lost workers", node="one"), Failure, "FAILED"),
        (KeyboardInterrupt(), KeyboardInterrupt, "KILLED"),
        (OSError(errno.ENOSPC, "No space left on device"), Interrupted, "FAILED"),
        (RuntimeError("Ray: [Errno 28] No space left on device"), Interrupted, "FAILED"),
        (OSError("186252 requested and 3040 written"), Interrupted, "FAILED"),
        (ActorUnavailableError("the controller is away", None), Interrupted, "FAILED"),
    ],
    ids=[
        "error",
        "exit",
        "divergence",
        "failure",
        "interruption",
        "full disk",
        "full disk of a worker",
        "full disk of numpy",
        "lost process",
    ],
)
def test_no_error_leaves_a_run_running(
    context: Context, error: BaseException, shown: type[BaseException], status: str
) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})

    with pytest.raises(shown) as caught, record_final_status(run, "resume it", directory=context.store.root):
        raise error

    assert details_of(caught.value)["run_id"] == run.run_id
    assert Tracking(context).run_info(run.run_id).status == status


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(28, "disk full"), 6), (OSError(5, "broken"), 1), (KeyboardInterrupt(), 130), (ActorDiedError(), 6)],
)
@pytest.mark.usefixtures("toy")
def test_the_json_line_names_the_run_that_failed(
    context: Context,
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        with record_final_status(Tracking(context).resume_run("abc"), "resume it", directory=context.store.root):
            raise error

    monkeypatch.setattr(train, "run", fail)

    assert main(["train", "toy", "--store", str(context.store.root), "--json"]) == code

    assert json.loads(capsys.readouterr().out)["run_id"] == "abc"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ActorDiedError(), 6),
        (ActorUnavailableError("an error raised in its creation task, KeyError", None), 1),
        (RuntimeError("x"), 1),
    ],
)
@pytest.mark.usefixtures("toy")
def test_a_verb_whose_process_the_cluster_lost_may_run_again(
    context: Context, error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(train, "run", fail)

    assert main(["train", "toy", "--store", str(context.store.root)]) == code

    assert ("run it again" in capsys.readouterr().err) == (code == 6)
