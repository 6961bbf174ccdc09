"""Levels of a distribution that held-out demand corrects: split conformal prediction by counts of levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NUM_BINS = 500
"""Bins of the levels at which demand lay, from 0 to 1."""
PRIOR_TARGETS = 30.0
"""Weight of the uncorrected level beside the held-out periods."""


def bins(levels: Floats) -> npt.NDArray[np.int64]:
    """The bin of each level."""
    return np.minimum((levels * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def corrected_levels(counts: Floats) -> Floats:
    """The level to take for each of 0, 1 / NUM_BINS, ... 1, so that so much of held-out demand lay at or below.

    Split conformal prediction of distributions, Chernozhukov, Wüthrich and Zhu, PNAS 2021.
    """
    grid, total = np.linspace(0, 1, NUM_BINS + 1), counts.sum()
    if not total:
        return grid
    shares = np.concatenate([[0.0], counts.cumsum()]) / (total + 1)
    rising = np.maximum.accumulate(shares + np.arange(NUM_BINS + 1) * 1e-12)
    found = np.interp(grid, rising, grid)
    mixed: Floats = (total * found + PRIOR_TARGETS * grid) / (total + PRIOR_TARGETS)
    return np.clip(mixed, 0.0, 1 - 0.5 / max(total, NUM_BINS))
