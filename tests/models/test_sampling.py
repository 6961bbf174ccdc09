"""Evenly spaced samples: no more than asked for, and deterministic."""

from __future__ import annotations

import pytest

from models.sampling import evenly


@pytest.mark.parametrize(
    ("count", "at_most", "places"),
    [
        (0, 3, []),
        (3, 3, [0, 1, 2]),
        (2, 5, [0, 1]),
        (4, 3, [0, 2]),
        (7, 3, [0, 3, 6]),
        (9, 3, [0, 3, 6]),
        (10, 3, [0, 4, 8]),
        (5, 1, [0]),
    ],
)
def test_every_nth_example_from_the_first_is_sampled(count: int, at_most: int, places: list[int]) -> None:
    assert evenly(range(count), at_most) == places


def test_only_the_sampled_examples_are_read() -> None:
    read: list[int] = []

    class Dataset:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> str:
            read.append(index)
            return f"example {index}"

    assert evenly(Dataset(), 2) == ["example 0", "example 500000"]
    assert read == [0, 500_000]
