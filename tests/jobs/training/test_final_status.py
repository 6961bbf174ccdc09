"""The status of a run in MLflow after its training ended in any way."""

from __future__ import annotations

import pytest

from jobs.cli.context import Context, Failure
from jobs.tracking.client import Tracking
from jobs.training.fit import record_final_status
from jobs.training.loop import TrainingDiverged


def test_a_run_that_ends_without_an_error_is_finished(context: Context) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})

    with record_final_status(run, "resume it"):
        pass

    assert Tracking(context).run_info(run.run_id).status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "shown", "status"),
    [
        (ValueError("a bad value"), ValueError, "FAILED"),
        (SystemExit(3), SystemExit, "FAILED"),
        (TrainingDiverged("the loss is NaN"), Failure, "FAILED"),
        (KeyboardInterrupt(), KeyboardInterrupt, "KILLED"),
    ],
    ids=["error", "exit", "divergence", "interruption"],
)
def test_no_error_leaves_a_run_running(
    context: Context, error: BaseException, shown: type[BaseException], status: str
) -> None:
    run = Tracking(context).start_run("toy", name="a run", params={}, tags={})

    with pytest.raises(shown), record_final_status(run, "resume it"):
        raise error

    assert Tracking(context).run_info(run.run_id).status == status
