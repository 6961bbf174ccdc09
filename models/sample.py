"""Synthetic raw data that a family can make for the demo and the tests, and questions with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A request for the demo's endpoint, and what is known about the right answer."""

    title: str
    request: Mapping[str, Any]
    """Fields of the first endpoint's Request."""
    right_answer: str


@dataclass(frozen=True)
class Sample:
    """A synthetic raw log, small enough for a demo."""

    prepare: Mapping[str, Any]
    """Fields of PrepareConfig."""
    train: Mapping[str, Any]
    """Fields of Config for a training run of seconds."""
    questions: Sequence[Question]
