"""What a training leaves in its tracked run: epochs, the best model as it improves, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.cli.context import DependencyDown, Failure, Interrupted, log, with_run
from jobs.cluster import connection
from jobs.tracking.client import Run, Status
from jobs.training import checkpoints
from jobs.training.logged_bundle import BestBundle
from jobs.training.loop import TrainingDiverged
from models.errors import is_disk_full
from models.files import write_text


class EpochRecorder:
    """Logs each epoch of a run directory once to the tracked run, and the best model as it improves."""

    def __init__(self, tracked: Run, directory: Path) -> None:
        self._tracked, self._directory, self._best = tracked, directory, BestBundle(directory)

    def after_epoch(self, epoch: int) -> None:
        """Log what is new up to this epoch."""
        log_epochs(self._tracked, self._directory, epoch)
        if epoch:  # the model before training is nothing that one would miss
            self._best.log_improvement(self._tracked)


def log_epochs(tracked: Run, directory: Path, last: int) -> None:
    """Log the epochs up to `last` that neither this process nor a lost predecessor has logged."""
    marker = directory / "logged_epoch"
    logged = int(marker.read_text(encoding="utf-8")) if marker.exists() else -1
    for report in checkpoints.read_reports(directory)[logged + 1 : last + 1]:
        tracked.log_metrics(report, step=int(report["epoch"]))
        write_text(marker, str(report["epoch"]))


@contextmanager
def record_final_status(tracked: Run, hint: str, *, directory: Path) -> Iterator[None]:
    """Set the tracked run's status from how the block ends; an interruption or a full disk says how to resume.

    Whatever ends the run, whose files are in `directory`, carries its id.
    """
    status: Status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt as interruption:
        status = "KILLED"
        log.warning("interrupted; %s", hint)
        interrupted = type(interruption)(f"interrupted; {hint}")
        with_run(interrupted, tracked.run_id)
        raise interrupted from None
    except TrainingDiverged as error:
        raise Failure(str(error), resume=tracked.run_id, run_id=tracked.run_id) from error
    except BaseException as error:
        if is_disk_full(error):
            message = f"the disk of {directory} is full; free some space, then {hint}"
            raise Interrupted(message, **_resumable(tracked)) from error
        if connection.is_lost(error):
            first = summarise_error(RuntimeError(str(error).partition("\n")[0]))
            raise Interrupted(
                f"the cluster lost a process of this run ({first}); {hint}", **_resumable(tracked)
            ) from error
        with_run(error, tracked.run_id)
        raise
    finally:
        try:
            tracked.end(status)
        except DependencyDown as error:
            if not is_disk_full(error):
                raise


def _resumable(tracked: Run) -> dict[str, str]:
    return {"resume": tracked.run_id, "run_id": tracked.run_id}


def summarise_error(error: Exception) -> str:
    """The last line of an error: of the first failed worker, else of the controller, else its own."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    lines = [line for line in str(next(iter(failures.values()))).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
