"""The funnel of a log with event types: how many views of an item lead to a purchase, say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_TYPES = 16
"""Types beyond these, in ascending order, are not in the funnel."""

Int64s = npt.NDArray[np.int64]
Counts = tuple[Int64s, Int64s]


def type_sets(pair: Int64s, types: npt.NDArray[np.uint8]) -> Counts:
    """How many (user, item) pairs have each set of types; bit i of a set is the type of code i."""
    if len(pair) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.diff(pair[order], prepend=pair[order[0]] - 1))
    codes = types[order].astype(np.int64)
    return np.unique(
        np.bitwise_or.reduceat(np.where(codes <= MAX_TYPES, 1 << np.minimum(codes, MAX_TYPES), 0), starts),
        return_counts=True,
    )


def funnel(sets: Counts, names: Sequence[str]) -> dict[str, Any]:
    """(user, item) pairs of each type, most frequent first, and the share that also have the next type.

    `names` are the types from code 1.
    """
    having = {
        name: int(sets[1][(sets[0] >> code) & 1 == 1].sum()) for code, name in enumerate(names[:MAX_TYPES], start=1)
    }
    code_of = {name: code for code, name in enumerate(names, start=1)}
    ordered = sorted(having, key=lambda name: (-having[name], name))
    conversion = {}
    for first, following in pairwise(ordered):
        both = (1 << code_of[first]) | (1 << code_of[following])
        count = int(sets[1][sets[0] & both == both].sum())
        conversion[f"{first} -> {following}"] = round(count / having[first], 4) if having[first] else 0.0
    return {"pairs": {name: having[name] for name in ordered}, "conversion": conversion}
