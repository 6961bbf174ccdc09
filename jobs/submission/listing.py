"""The jobs of a cluster as rows for people and programs: verb, family, run, state, progress and age."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from jobs.cli.context import EXIT_INTERRUPTED
from jobs.cli.text_table import aligned
from jobs.submission.client import JobInfo, state_of, was_lost
from jobs.submission.forwarded import OWN_METADATA
from jobs.submission.watching import result_in, run_id_in

EPOCH = re.compile(r"\bepoch \d+.*")
MAX_PROGRESS_LENGTH = 70
HEADINGS = ("submission id", "verb", "family", "run id", "state", "attempt", "age", "progress")


def describe(
    info: JobInfo, log_text: str, *, attempts: Sequence[JobInfo] = (), now_s: float | None = None
) -> dict[str, Any]:
    """A job with what its log says of it; `log_text` is empty where Ray has no log of the job yet.

    `attempts` are those of a job with retries.
    """
    own = {key.removeprefix(OWN_METADATA): value for key, value in (info.metadata or {}).items()}
    result = result_in(log_text)
    started_s = (info.start_time or 0) / 1000
    return {
        "submission_id": info.submission_id,
        "verb": own.get("verb"),
        "family": own.get("family") or None,
        "run_id": result.get("run_id") or run_id_in(log_text),
        "state": state(info, result),
        "attempt": len(attempts) or None,
        "attempts": [{"submission_id": each.submission_id, "state": state(each, {})} for each in attempts],
        "progress": progress(info, log_text, result),
        "exit_code": info.driver_exit_code,
        "age_s": round((time.time() if now_s is None else now_s) - started_s, 1) if started_s else None,
        "metadata": {key: value for key, value in (info.metadata or {}).items() if not key.startswith(OWN_METADATA)},
    }


def state(info: JobInfo, result: dict[str, Any]) -> str:
    """waiting, running, done, failed, stopped; interrupted if it can be resumed; dead if its process was lost."""
    match state_of(info):
        case "PENDING":
            return "waiting"
        case "FAILED" if EXIT_INTERRUPTED in (info.driver_exit_code, result.get("exit_code")):
            return "interrupted"
        case "FAILED" if was_lost(info):
            return "dead"
        case other:
            return {"SUCCEEDED": "done"}.get(other, other.lower())


def progress(info: JobInfo, log_text: str, result: dict[str, Any]) -> str:
    """What a waiting job waits for, the last epoch of a running one, the error of a failed one."""
    last_line = next((line.strip() for line in reversed(log_text.splitlines()) if line.strip()), "")
    match state(info, result):
        case "waiting":
            return _in_one_line(info.message or "")
        case "running":
            epochs = EPOCH.findall(log_text)
            return _in_one_line(epochs[-1] if epochs else last_line)
        case "done":
            return ", ".join(f"{name} {value:.4g}" for name, value in list(result.get("metrics", {}).items())[:2])
        case _:
            return _in_one_line(str(result.get("error") or info.message or last_line))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows of `describe` as lines."""
    if not rows:
        return ["no jobs"]
    names = [heading.replace(" ", "_") for heading in HEADINGS]
    shown = [{**row, "age": _age(row["age_s"]), "progress": _shortened(row["progress"])} for row in rows]
    cells = [[str(row[name] or "-") for name in names] for row in shown]
    return aligned([HEADINGS, *cells], to_the_right=False)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_PROGRESS_LENGTH else f"{text[: MAX_PROGRESS_LENGTH - 3]}..."


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
