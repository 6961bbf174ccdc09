"""The record of a run of a pipeline: a JSON file in the store, replaced atomically after every change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from jobs.cli.context import Failure, Store
from models.files import write_text
from models.suggestions import suggestion

FORMAT = 1
MAX_RUNS = 50
"""Records of runs that are kept of each pipeline, and their logs."""
Status = Literal["waiting", "running", "done", "unchanged", "skipped", "failed", "interrupted", "not run"]


@dataclass
class StepRecord:
    """What is known of a step, from this run and from those before."""

    id: str
    verb: str
    family: str | None = None
    status: Status = "waiting"
    """What happened to it in this run."""
    reason: str = ""
    """Why it was run, or was not."""
    command: str = ""
    result: str = ""
    """The status that the verb reported when the step was done last."""
    results: dict[str, Any] = field(default_factory=dict)
    """What later steps may use of what it reported then."""
    done_key: str | None = None
    """The inputs with which it was done last; None since it was started again."""
    done_at: str | None = None
    key: str | None = None
    """The inputs with which it was started last."""
    was_cut_off: bool = False
    """An attempt with these inputs was killed or interrupted and may have had effects."""
    name: str | None = None
    """Of the MLflow run that the last start made, by which it is found again."""
    attempts: int = 0
    started: str | None = None
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    process: tuple[str, int, float] | None = None
    """Host, pid and creation time of the running attempt."""


@dataclass
class RunRecord:
    """A run of a pipeline."""

    pipeline: str
    run: str
    file: str
    started: str
    steps: dict[str, StepRecord]
    finished: str | None = None
    exit_code: int | None = None
    host: str = ""
    pid: int = 0
    format: int = FORMAT


class Records:
    """The records of a pipeline in a store."""

    def __init__(self, store: Store, pipeline: str) -> None:
        self.pipeline = pipeline
        self.directory = root(store) / pipeline
        self.logs = store.logs / "pipelines" / pipeline

    def latest(self) -> RunRecord | None:
        """The record of the last run; None if there was none. Raises Failure if it is damaged."""
        paths = self._paths()
        return read_record(paths[-1]) if paths else None

    def new_run(self) -> str:
        """A name for a run, which sorts after all others."""
        name = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        last = self._paths()[-1].stem if self._paths() else ""
        return name if name > last else f"{last}a"

    def path(self, run: str) -> Path:
        """The file of a run."""
        return self.directory / f"{run}.json"

    def write(self, record: RunRecord) -> None:
        """Write or replace the record of a run; only its owner can read it, as commands may name people."""
        write_text(self.path(record.run), json.dumps(dataclasses.asdict(record), indent=1, default=str), mode=0o600)

    def log(self, run: str, step: str, attempt: int) -> Path:
        """The log of an attempt."""
        return self.logs / f"{run}-{step}-{attempt}.log"

    def remove_old(self) -> None:
        """Remove the records of all but the last runs, and their logs."""
        for path in self._paths()[:-MAX_RUNS]:
            for log in self.logs.glob(f"{path.stem}-*"):
                log.unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.directory.glob("*.json") if not path.name.startswith("."))


def root(store: Store) -> Path:
    """The directory of all pipelines of a store."""
    return store.root / "pipelines"


def pipelines_of(store: Store) -> list[str]:
    """The names of the pipelines that were run in a store."""
    return sorted(path.parent.name for path in root(store).glob("*/lock"))


def read_record(path: Path) -> RunRecord:
    """Read a record; raises Failure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise Failure(f"{path} has format {content['format']}, and this release reads up to {FORMAT}: upgrade")
        steps = {name: _step(fields) for name, fields in content["steps"].items()}
        known = {one.name for one in dataclasses.fields(RunRecord)}
        return RunRecord(**{**{name: value for name, value in content.items() if name in known}, "steps": steps})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path} is damaged ({error}); move it away: the run before it then counts as the last") from None


def checked_name(store: Store, name: str) -> str:
    """The name of a pipeline that was run; raises Failure with those that were."""
    known = pipelines_of(store)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise Failure(f"no pipeline {name!r} was run in {store.root}{suggestion(name, known)}; there are: {listed}")
    return name


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _step(fields: Mapping[str, Any]) -> StepRecord:
    known = {one.name for one in dataclasses.fields(StepRecord)}
    record = StepRecord(**{name: value for name, value in fields.items() if name in known})
    if record.process is not None:
        host, pid, started_s = record.process
        record.process = (str(host), int(pid), float(started_s))
    return record
