"""A runner of steps without processes: answers for verbs, and keeps what it was asked."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.pipelines.process import Ended, result_path

PID_OF_NOBODY = 2**22 + 1
"""Above the largest process id of Linux."""
DEFAULTS: Mapping[str, dict[str, Any]] = {
    "prepare": {"status": "ok", "fingerprint": "f1"},
    "sweep": {"status": "ok", "run_id": "s1", "best_config": {"network": "hidden", "learning_rate": 0.02, "epochs": 9}},
    "train": {"status": "ok", "run_id": "r1", "metrics": {"val_accuracy": 0.75}},
    "promote": {"status": "promoted", "run_id": "r1", "version": "1", "model": "models:/toy/1"},
    "evaluate": {"status": "ok"},
    "events": {"status": "ok"},
    "erase": {"status": "erased"},
    "status": {"status": "ok"},
}


class Killed(BaseException):
    """Stands for kill -9 of the pipeline: nothing of it runs any more."""


class StepRunner:
    """Answers each verb with what is in line for it, then with success."""

    def __init__(self, **answers: Sequence[Ended | BaseException | Callable[[Path], Ended]]) -> None:
        self.answers = defaultdict(list, {verb: list(given) for verb, given in answers.items()})
        self.commands: list[list[str]] = []
        self.facts: dict[str, dict[str, Any]] = {verb: dict(facts) for verb, facts in DEFAULTS.items()}

    def __call__(
        self, words: Sequence[str], *, log: Path, timeout_s: float | None, started: Callable[[int, float], None]
    ) -> Ended:
        self.commands.append(list(words))
        started(PID_OF_NOBODY, 0.0)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"the log of {words[0]}\n", encoding="utf-8")
        waiting = self.answers[words[0]]
        answer = waiting.pop(0) if waiting else ok(**self.facts[words[0]])
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Ended) else answer(log)

    @property
    def verbs(self) -> list[str]:
        """The verbs in the order in which they were run."""
        return [words[0] for words in self.commands]


def ok(**line: Any) -> Ended:
    """Success."""
    return Ended(0, {"exit_code": 0, **line})


def error(exit_code: int, message: str = "it went wrong") -> Ended:
    """A failure."""
    return Ended(exit_code, {"exit_code": exit_code, "status": "failed", "error": message} if exit_code > 0 else {})


def done_but_killed(**line: Any) -> Callable[[Path], Ended]:
    """The verb is done and has said so, but the pipeline was killed before it heard."""

    def answer(log: Path) -> Ended:
        result_path(log).write_text(json.dumps({"exit_code": 0, **line}) + "\n", encoding="utf-8")
        raise Killed

    return answer
