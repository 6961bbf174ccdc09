"""Groups of series whose totals are forecast: categories, stores and all series; which window is of which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.forecast.data import CATEGORY, Windows
from models.forecast.schema import Schema

Kind = Literal["category", "store", "all"]
KINDS: tuple[Kind, ...] = ("category", "store", "all")
MAX_CELLS = 4_000
"""Totals of a period on validation, at most, from which intervals are calibrated: further groups are left out."""
Group = tuple[Kind, int]
"""A kind, and the code of the category or store; 0 for all."""
Ints = npt.NDArray[np.int64]


def calibrated_groups(schema: Schema) -> list[Group]:
    """The groups whose totals on validation calibrate the intervals of totals: all, and the largest of each kind."""
    found = all_groups(schema)
    return found[: MAX_CELLS // max(1, len(schema.val_origins) * schema.horizon)]


def all_groups(schema: Schema) -> list[Group]:
    """All series, then each category, the most frequent first, in turn with each store."""
    categories: Iterable[Group] = (("category", code) for code in _ordered(len(schema.static.get(CATEGORY, ()))))
    stores: Iterable[Group] = (("store", code) for code in range(len(schema.stores)))
    pairs = zip_longest(categories, stores)
    return [("all", 0), *(group for pair in pairs for group in pair if group is not None)]


def places(batch: Windows, schema: Schema, groups: Sequence[Group], origins: Sequence[int]) -> tuple[Ints, Ints, Ints]:
    """(window, origin, group) of each window of a batch for each group that it is in: rows of the batch, and places."""
    number = {origin: place for place, origin in enumerate(origins)}
    origin = np.array([number.get(start, -1) for start in batch.start.tolist()], np.int64)
    nothing = np.zeros(len(origin), np.int64)
    codes = {"category": _codes(batch, schema), "store": batch.store.cpu().numpy(), "all": nothing}
    rows, found = list[Ints](), list[Ints]()
    for kind in KINDS:
        of_code = {code: place for place, (each, code) in enumerate(groups) if each == kind}
        place = np.array([of_code.get(code, -1) for code in codes[kind].tolist()], np.int64)
        chosen = np.flatnonzero((place >= 0) & (origin >= 0))
        rows.append(chosen)
        found.append(place[chosen])
    row = np.concatenate(rows)
    return row, origin[row], np.concatenate(found)


def _codes(batch: Windows, schema: Schema) -> Ints:
    """The code of each window's category [B]; -1 where the model knows no categories."""
    if CATEGORY not in schema.static:
        return np.full(len(batch.demand), -1, np.int64)
    found: Ints = batch.static[:, list(schema.static).index(CATEGORY)].cpu().numpy()
    return found


def _ordered(count: int) -> list[int]:
    """The codes of categories; those without one, code 0, come last."""
    return [*range(1, count), 0][:count]
