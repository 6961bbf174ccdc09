"""Bootstrap confidence intervals and paired comparisons of metrics (percentile method, Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.evaluate import Scores, rows_of
from models.metric import Kept, Metric

MAX_UNITS = 10_000
"""With more examples than this, random groups of examples are resampled instead. The intervals differ by a hundredth of
their width, and their cost does not grow with the data."""
CHUNK = 128
MAX_COMPUTED = 1000
"""Maximum number of resamples for a metric with a `compute`, which is recomputed on each."""
MAX_COMPUTED_EXAMPLES = 50_000_000
"""Maximum number of examples over all these resamples; a large split gets fewer, but at least MIN_COMPUTED."""
MIN_COMPUTED = 200
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The difference of a metric between two models on the same examples, with its 95 % confidence interval."""

    difference: float
    low: float
    high: float
    p_value: float
    """One-sided: the fraction of resamples in which the candidate is not better."""


def score_intervals(scores: Scores, metrics: Sequence[Metric], *, num_resamples: int, seed: int) -> dict[str, Interval]:
    """Value and interval of every ratio metric, and of every one of `metrics` with a `compute`."""
    found = {}
    if names := [name for name, denominator in scores.denominators.items() if denominator.any()]:
        pairs = [(scores.numerators[name], scores.denominators[name]) for name in names]
        drawn = _ratios(pairs, num_resamples=num_resamples, seed=seed)
        found = {name: Interval(scores.ratio(name), *_ends(values)) for name, values in zip(names, drawn, strict=True)}
    for metric in metrics:
        if metric.compute is not None and not math.isnan(scores.value(metric)):
            found[metric.name] = metric_interval(scores, metric, num_resamples=num_resamples, seed=seed)
    return found


def metric_interval(
    scores: Scores, metric: Metric, *, among: NDArray[np.bool_] | None = None, num_resamples: int, seed: int
) -> Interval:
    """Value and interval of a metric on all examples, or on those `among`, at least one of which must count."""
    (drawn,) = _drawn(metric, [scores], among=among, num_resamples=num_resamples, seed=seed)
    return Interval(scores.value(metric, among), *_ends(drawn))


def compare_scores(
    metric: Metric,
    candidate: Scores,
    other: Scores,
    *,
    among: NDArray[np.bool_] | None = None,
    num_resamples: int,
    seed: int,
) -> Comparison:
    """Compare a metric of two models on the same examples, all of them or those `among`."""
    assert candidate.num_examples == other.num_examples, "both models must be scored on the same examples"
    first, second = _drawn(metric, [candidate, other], among=among, num_resamples=num_resamples, seed=seed)
    difference = candidate.value(metric, among) - other.value(metric, among)
    return _comparison(difference, first, second, mode=metric.mode)


def _comparison(difference: float, candidate: Floats, other: Floats, *, mode: Literal["max", "min"]) -> Comparison:
    """The comparison from the values of both models in each resample."""
    drawn = candidate - other
    gains = drawn if mode == "max" else -drawn
    low, high = _ends(drawn)
    # A value is better than a NaN, as in Metric.better: a constant model has no correlation in any resample.
    is_better = (gains > 0) | (np.isnan(other) & ~np.isnan(candidate))
    num_not_better = len(drawn) - int(is_better.sum())
    return Comparison(difference, low, high, p_value=(1 + num_not_better) / (1 + len(drawn)))


def _ends(drawn: Floats) -> tuple[float, float]:
    if np.isnan(drawn).all():
        return math.nan, math.nan
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(
    metric: Metric, models: Sequence[Scores], *, among: NDArray[np.bool_] | None, num_resamples: int, seed: int
) -> Sequence[Floats]:
    """The metric of each model in every resample of the examples, or of those `among`; the same for all models."""
    if metric.compute is not None:
        kept = [each.kept if among is None else rows_of(each.kept, among) for each in models]
        return _computed(metric, kept, num_resamples=num_resamples, seed=seed)
    chosen = slice(None) if among is None else among
    pairs = [(each.numerators[metric.name][chosen], each.denominators[metric.name][chosen]) for each in models]
    return _ratios(pairs, num_resamples=num_resamples, seed=seed)


def _ratios(pairs: Sequence[tuple[Floats, Floats]], *, num_resamples: int, seed: int) -> Sequence[Floats]:
    """Ratios of the sums of (numerators [N], denominators [N]), several on the same resamples."""
    numerator, denominator = (_units(columns, seed) for columns in zip(*pairs, strict=True))
    drawn = [
        _divide(weights @ numerator, weights @ denominator) for weights in _draws(len(numerator), num_resamples, seed)
    ]
    return list(np.concatenate(drawn).T)


def _computed(metric: Metric, kept: Sequence[Kept], *, num_resamples: int, seed: int) -> list[Floats]:
    """A metric with a `compute`, for several models on the same resamples."""
    assert metric.compute is not None
    num_examples = len(next(iter(kept[0].values()), ()))
    affordable = max(MIN_COMPUTED, MAX_COMPUTED_EXAMPLES // max(1, num_examples))
    generator = np.random.default_rng([seed, 2])
    found: list[list[float]] = [[] for _ in kept]
    for _ in range(min(num_resamples, MAX_COMPUTED, affordable) if num_examples else 0):
        rows = generator.integers(0, num_examples, size=num_examples)
        for values, each in zip(found, kept, strict=True):
            values.append(metric.computed_or_nan(rows_of(each, rows)))
    return [np.asarray(values or [math.nan]) for values in found]


def _units(columns: Sequence[Floats], seed: int) -> Floats:
    """The columns [N] as a matrix of resampling units [U, M]; the same seed and length give the same units."""
    num_examples = len(columns[0])
    if num_examples <= MAX_UNITS:
        return np.stack(columns, axis=1)
    group = np.random.default_rng(seed).permutation(num_examples) % MAX_UNITS
    return np.stack([np.bincount(group, weights=column, minlength=MAX_UNITS) for column in columns], axis=1)


def _draws(num_units: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Counts of each unit in each resample, in chunks [at most CHUNK, U]."""
    generator = np.random.default_rng([seed, 1])
    for start in range(0, num_resamples, CHUNK):
        rows = min(CHUNK, num_resamples - start)
        drawn = generator.integers(0, num_units, size=(rows, num_units))
        drawn += np.arange(rows)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=rows * num_units)
        yield counts.reshape(rows, num_units).astype(np.float64)


def _divide(numerator: Any, denominator: Any) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator != 0, numerator / denominator, np.nan)
