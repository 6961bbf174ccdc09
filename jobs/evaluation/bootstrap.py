"""How sure a metric is: percentile intervals and paired comparisons by resampling examples (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MAX_UNITS = 10_000
"""More examples than this are dealt at random into so many groups, which are resampled instead of them: the interval is
the same but for a hundredth of its width, and its cost does not grow with the data."""
CHUNK = 128
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A metric and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A candidate's metric minus another's on the same examples."""

    difference: float
    low: float
    high: float
    p_value: float
    """Share of resamples in which the candidate is not better: one-sided."""


def intervals(
    numerators: Mapping[str, Floats], denominators: Mapping[str, Floats], *, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """The interval of every metric, given each example's share in it [N]."""
    names = [name for name in numerators if denominators[name].any()]
    above, below = (_units([part[name] for name in names], seed) for part in (numerators, denominators))
    drawn = np.concatenate(
        [_divided(weights @ above, weights @ below) for weights in _draws(len(above), num_resamples, seed)]
    )
    points = _divided(above.sum(0), below.sum(0))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: Interval(float(points[place]), float(low[place]), float(high[place])) for place, name in enumerate(names)
    }


def compare(
    candidate: tuple[Floats, Floats],
    other: tuple[Floats, Floats],
    *,
    mode: Literal["max", "min"],
    num_resamples: int,
    seed: int,
) -> Comparison:
    """Compare a metric of two models, each given as (numerators, denominators) of the same examples in order [N]."""
    assert len(candidate[0]) == len(other[0]), "a paired comparison needs the same examples"
    above = _units([candidate[0], other[0]], seed)
    below = _units([candidate[1], other[1]], seed)
    drawn = np.concatenate(
        [_divided(weights @ above, weights @ below) for weights in _draws(len(above), num_resamples, seed)]
    )
    differences = drawn[:, 0] - drawn[:, 1]
    gains = differences if mode == "max" else -differences
    points = _divided(above.sum(0), below.sum(0))
    low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # A NaN, where nobody took part, is not a gain.
    num_not_better = num_resamples - int((gains > 0).sum())
    return Comparison(
        difference=float(points[0] - points[1]),
        low=float(low),
        high=float(high),
        p_value=(1 + num_not_better) / (1 + num_resamples),
    )


def _units(columns: list[Floats], seed: int) -> Floats:
    """The columns [N] as a matrix of resampling units [U, M]; equal seeds and lengths give equal units."""
    num_examples = len(columns[0])
    if num_examples <= MAX_UNITS:
        return np.stack(columns, axis=1)
    group = np.random.default_rng(seed).permutation(num_examples) % MAX_UNITS
    return np.stack([np.bincount(group, weights=column, minlength=MAX_UNITS) for column in columns], axis=1)


def _draws(num_units: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each unit is drawn in each resample: [at most CHUNK, U]."""
    generator = np.random.default_rng([seed, 1])
    for start in range(0, num_resamples, CHUNK):
        rows = min(CHUNK, num_resamples - start)
        drawn = generator.integers(0, num_units, size=(rows, num_units))
        drawn += np.arange(rows)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=rows * num_units)
        yield counts.reshape(rows, num_units).astype(np.float64)


def _divided(above: Any, below: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below != 0, above / below, np.nan)
