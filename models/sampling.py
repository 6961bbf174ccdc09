"""Deterministic, evenly spaced samples of examples."""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Examples(Protocol[T_co]):
    """A sized, indexable collection of examples, such as a dataset or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


def evenly(examples: Examples[T_co], at_most: int) -> list[T_co]:
    """Every n-th example from the first, with the smallest n that gives at most `at_most` examples."""
    step = max(1, math.ceil(len(examples) / at_most))
    return [examples[index] for index in range(0, len(examples), step)]
