"""Why no prices keep all rules: a smallest set of requirements that conflict, by a deletion filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def irreducible(items: Sequence[T], is_infeasible: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of infeasible items that is infeasible, while every part of it is not.

    Deletes halves, quarters, eighths and so on while what remains is infeasible, down to single items: the deletion
    filter of Chinneck and Dravnieks (1991) in larger bites. What cannot be shown to be infeasible counts as feasible.
    """
    kept, size = list(items), len(items)
    while size:
        start = 0
        while start < len(kept):
            remaining = kept[:start] + kept[start + size :]
            if is_infeasible(remaining):
                kept = remaining
            else:
                start += size
        if size == 1:
            break
        size = -(-size // 2)
    return kept
