"""The toy's members that the wrong families share: a mistake concerns how the others fit together."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypedDict

from models.family import Schema
from models.metrics import Metric
from tests.kit import toy


class Parts(TypedDict):
    """Typed, so that mypy infers the types of `Family(**PARTS, ...)` as if each were written there."""

    name: str
    metric: Metric
    PrepareConfig: type[toy.PrepareConfig]
    Config: type[toy.Config]
    Schema: type[Schema]
    prepare: Callable[[toy.PrepareConfig, Path, Executor], Schema]
    golden_request: Callable[[Schema], toy.Request]


PARTS = Parts(
    name="wrong",
    metric=Metric("accuracy", "max"),
    PrepareConfig=toy.PrepareConfig,
    Config=toy.Config,
    Schema=Schema,
    prepare=toy.prepare,
    golden_request=toy.golden_request,
)
