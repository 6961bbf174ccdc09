"""Blocks of consecutive periods: folds, halves and bootstrap samples that keep neighbouring periods together."""

from __future__ import annotations

import numpy as np

from models.pricing.panel import Flags, Floats, Ints

BLOCK = 4


def block_of(periods: Ints, *, length: int = BLOCK) -> Ints:
    """The number of the block of each row [N]."""
    block: Ints = (periods - periods.min()) // length
    return block


def alternating_halves(periods: Ints, *, length: int = BLOCK) -> tuple[Flags, Flags]:
    """Even and odd blocks of periods: two halves that share no period and cover the same seasons."""
    is_even = block_of(periods, length=length) % 2 == 0
    return is_even, ~is_even


def folds(periods: Ints, *, num_folds: int, length: int = BLOCK, shift: int = 0) -> Ints:
    """The fold of each row [N]; the rows of a block share one. `shift` moves where blocks begin, by periods."""
    fold: Ints = (periods - periods.min() + shift) // length % num_folds
    return fold


def bootstrap_weights(periods: Ints, draw: np.random.Generator, *, length: int = BLOCK) -> Floats:
    """How often each row counts [N] when blocks of periods are drawn with replacement (Künsch, 1989).

    Blocks without rows, as those of the other half, are not drawn.
    """
    _, blocks = np.unique(block_of(periods, length=length), return_inverse=True)
    num_blocks = int(blocks.max()) + 1
    counts = np.bincount(draw.integers(0, num_blocks, num_blocks), minlength=num_blocks).astype(np.float64)
    result: Floats = counts[blocks]
    return result
