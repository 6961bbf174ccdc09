"""A verb for command-line tests that ends as its flag says."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from typing import Any, Literal

from jobs.cli.context import Context, DependencyDown, GateNotMet, Interrupted, Outcome
from models.errors import DataRejected
from models.family import Family


@dataclass(frozen=True)
class Options:
    how: Literal["ok", "gate", "data", "down", "resumable", "ctrl-c", "sigterm", "mistake"] = "ok"
    """How to end."""
    limit: int | None = None
    """A whole number,
    or none."""
    share: float = 0.5
    names: tuple[str, ...] = ()
    """Some names."""
    gpu: bool = False

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"--share {self.share} is above 1; use a fraction")


def run(context: Context, family: Family | None, options: Options, config: Any | None) -> Outcome:
    """End as told."""
    sys.stdout.write("a library talks\n")
    match options.how:
        case "gate":
            raise GateNotMet("not better", p_value=0.4, metrics={"test_accuracy": 0.3})
        case "data":
            raise DataRejected("all rows are bad")
        case "down":
            raise DependencyDown("nobody answers")
        case "resumable":
            raise Interrupted("stopped; go on with --resume abc", resume="abc")
        case "ctrl-c":
            os.kill(os.getpid(), signal.SIGINT)
        case "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        case "mistake":
            raise KeyError("colour")
    return Outcome(run_id="r1", metrics={"val_accuracy": 0.5, "val_loss": float("nan")}, details={"seconds": 1.25})
