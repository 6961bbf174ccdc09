"""Items that a model does not know, as columns that are added to its scores; and items that were withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NewItems:
    """N new items with the indices V .. V + N - 1, where V is the number of rows of the model, padding included."""

    ids: Sequence[str]
    """Item ids [N]."""
    first: int
    """V, the index of the first new item."""
    neighbours: Tensor
    """Nearest items with events [N, K], padded with PADDING."""
    weights: Tensor
    """Their weights [N, K], which sum to 1; all 0 for an item without usable attributes."""
    is_unplaced: Tensor
    """Whether an item has no usable attributes [N], so that only a filter finds it."""
    withdrawn: Tensor
    """Indices [W] of items that must not be recommended, known or new."""

    def neighbour(self, item: int) -> int | None:
        """The item of the model that stands for an item in a history; None if none does."""
        if item < self.first:
            return item
        neighbour = int(self.neighbours[item - self.first, 0])
        return None if self.is_unplaced[item - self.first] else neighbour
