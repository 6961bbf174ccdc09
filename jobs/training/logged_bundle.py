"""Logs a run's best model while it trains, so that a training that is killed leaves it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jobs.cli.context import log
from jobs.tracking.client import BUNDLE, Run
from jobs.training import checkpoints
from models import bundle
from models.errors import BundleRejected
from models.files import temporary_directory, write_text

MARKER = "logged_bundle"
MAX_SHARE = 0.1
"""Of the time of a training that goes to logging models which a better one will replace."""


class BestBundle:
    """The best bundle of a run directory, logged when it has changed and the last upload was not too recent."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._rests_until_s = -float("inf")

    def log_improvement(self, tracked: Run) -> None:
        """Log the bundle if it is another than the logged one, while the training goes on."""
        if self._clock() < self._rests_until_s:
            return
        started_s = self._clock()
        try:
            log_best(tracked, self._directory)
        except (BundleRejected, shutil.Error, FileNotFoundError) as error:
            log.debug("the best model is being replaced at this moment, and logged later: %s", error)
        ended_s = self._clock()
        self._rests_until_s = ended_s + (ended_s - started_s) * (1 / MAX_SHARE - 1)


def log_best(tracked: Run, directory: Path) -> None:
    """Log the best bundle of a run directory, unless it was logged already; raises BundleRejected if it is damaged."""
    marker = directory / MARKER
    # A training may replace the bundle at any moment: its files are linked first, then verified together.
    with temporary_directory(directory / "logging") as snapshot:
        shutil.copytree(checkpoints.best_of(directory), snapshot, copy_function=_link, dirs_exist_ok=True)
        digest = bundle.verify(snapshot)
        if marker.is_file() and marker.read_text(encoding="utf-8") == digest:
            return
        if tracked.log_artifacts(snapshot, BUNDLE):
            write_text(marker, digest)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
    return target
