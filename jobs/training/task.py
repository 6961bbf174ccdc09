"""What every part of the training loop needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.training.distributed import WorkerContext
from models.family import Family
from models.prepared import Prepared


@dataclass(frozen=True)
class TrainingTask:
    """The immutable inputs of a training run, which every part of the loop needs."""

    family: Family
    config: Any
    schema: Any
    data: Prepared
    directory: Path
    worker: WorkerContext

    @property
    def metric(self) -> str:
        """The validation metric that selects the best epoch."""
        return f"val_{self.family.metric.name}"
