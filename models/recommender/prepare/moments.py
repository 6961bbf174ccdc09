"""The order of the events of one moment and session, such as a basket."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.recommender.prepare.events import Hashes


def moment_order(user_hash: Hashes, item_hash: Hashes, time_us: npt.NDArray[np.int64]) -> Hashes:
    """A pseudo-random key that orders the items of one moment, such as a basket, by the rows alone.

    An order by item id would be meaningless and yet easy to learn.
    """
    mixed = item_hash ^ (user_hash << np.uint64(1)) ^ (time_us.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))
