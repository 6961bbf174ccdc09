"""Numbers with a band over the members of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.pricing.panel import Floats

COVERAGE = 0.9


@dataclass(frozen=True)
class Band:
    """A mean with the bounds of what 90 % of the members say."""

    low: float
    mean: float
    high: float


def band(values: Floats) -> Band:
    """The band of the values [S] of an ensemble's members."""
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Band(float(low), float(values.mean()), float(high))


def bands(values: Floats) -> list[Band]:
    """The band of each column of values [S, I]."""
    return [band(column) for column in values.T]
