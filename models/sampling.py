"""Some of many examples, evenly spaced, so that the same data gives the same ones each time."""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Examples(Protocol[T_co]):
    """What has a length and a place for each example, such as a dataset or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


def evenly(examples: Examples[T_co], at_most: int) -> list[T_co]:
    """Every n-th example, from the first on, for the smallest n that gives `at_most` of them or fewer."""
    step = max(1, math.ceil(len(examples) / at_most))
    return [examples[place] for place in range(0, len(examples), step)]
