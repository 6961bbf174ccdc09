"""The promotion gate: a candidate must be significantly better, regress on no slice, and be fast and small enough."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.evaluation.bootstrap import compare_scores
from jobs.evaluation.scoring import one_thread
from models import bundle
from models.ask import Answerer
from models.evaluate import Model, Scores
from models.family import Family

NUM_WARMUPS = 5
NUM_TIMINGS = 30
SLICE_RESAMPLES = 2000
SLICE_P_VALUE = 0.05
"""Significance level at which a drop beyond the tolerance fails a slice."""


@dataclass(frozen=True)
class Check:
    """One check of the gate: whether it passed, and its numbers."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, float]


def check_better(
    family: Family, candidate: Scores, other: Scores, *, name: str, p_value: float, num_resamples: int
) -> Check:
    """Whether the candidate's metric is significantly better than another model's on the same examples.

    A defined metric is better than an undefined one, such as the correlation of a constant baseline; an undefined one
    never passes.
    """
    metric = family.metric.name
    value, reference = candidate.value(family.metric), other.value(family.metric)
    if math.isnan(value) or math.isnan(reference):
        return _check_undefined(metric, value, reference, name=name)
    found = compare_scores(family.metric, candidate, other, num_resamples=num_resamples, seed=0)
    passed = family.metric.better(value, reference) and found.p_value < p_value
    relation = "is better than" if passed else "is not significantly better than"
    return Check(
        name=f"better than {name}",
        passed=passed,
        message=f"{metric} {value:.5f} {relation} {name}'s {reference:.5f} (p = {found.p_value:.4f}, limit {p_value})",
        numbers=_defined(candidate=value, other=reference, low=found.low, high=found.high, p_value=found.p_value),
    )


def check_slices(family: Family, candidate: Scores, champion: Scores) -> list[Check]:
    """For each large enough slice, whether the metric dropped significantly and beyond the tolerance."""
    checks = []
    for dimension, labels in candidate.slices.items():
        for label in np.unique(labels):
            check = _check_slice(family, candidate, champion, among=labels == label, name=f"{dimension} = {label}")
            if check is not None:
                checks.append(check)
    return checks


def check_size(family: Family, directory: Path) -> Check:
    """Whether the model directory is within the size limit."""
    size, limit = bundle.size_mb(directory), family.gate.max_size_mb
    return Check("size", size <= limit, f"the model has {size:.1f} MB (limit {limit:g})", {"size_mb": size})


def check_latency(family: Family, model: Model) -> Check:
    """Whether the median latency of the golden request on one thread is within the limit."""
    latency, limit = median_latency_ms(family, model), family.gate.max_latency_ms
    message = f"the median latency is {latency:.2f} ms (limit {limit:g})"
    return Check("latency", latency <= limit, message, {"latency_ms": latency})


def median_latency_ms(family: Family, model: Model) -> float:
    """Median latency of the golden request, from request to response, on one thread."""
    request = family.golden_request(model.schema)
    answerer = Answerer(family, family.endpoints[0], model.network, model.schema, "candidate")
    timings = []
    with one_thread():
        for _ in range(NUM_WARMUPS + NUM_TIMINGS):
            started = time.perf_counter()
            answerer(request)
            timings.append(time.perf_counter() - started)
    return statistics.median(timings[NUM_WARMUPS:]) * 1000


def _check_undefined(metric: str, value: float, reference: float, *, name: str) -> Check:
    """The check of a metric that one of two models, or both, do not have."""
    passed = not math.isnan(value)
    message = (
        f"{metric} {value:.5f} is better than {name}'s, which is undefined"
        if passed
        else f"{metric} of the candidate is undefined, so it is not better than {name}"
    )
    return Check(f"better than {name}", passed, message, _defined(candidate=value, other=reference))


def _defined(**numbers: float) -> dict[str, float]:
    """The numbers without NaN, which JSON does not have."""
    return {name: value for name, value in numbers.items() if not math.isnan(value)}


def _check_slice(family: Family, candidate: Scores, champion: Scores, *, among: Any, name: str) -> Check | None:
    metric, gate = family.metric.name, family.gate
    num_examples = candidate.num_counted(family.metric, among)
    if num_examples < gate.min_slice_examples:
        return None
    now, before = candidate.value(family.metric, among), champion.value(family.metric, among)
    if math.isnan(before):
        return None
    drop = _relative_drop(now, before, family.metric.mode)
    # Small slices often drop by 10 % by chance, which would block good models; so the drop must be significant.
    p_value = 1.0
    if drop:
        resampled = {"among": among, "num_resamples": SLICE_RESAMPLES, "seed": 0}
        p_value = compare_scores(family.metric, champion, candidate, **resampled).p_value
    return Check(
        name=f"slice {name}",
        passed=not (drop > gate.slice_tolerance and p_value < SLICE_P_VALUE),
        message=(
            f"{metric} where {name} went from {before:.5f} to {_text(now)} on {num_examples} examples "
            f"({'' if math.isinf(drop) else f'down {drop:.1%}, '}limit {gate.slice_tolerance:.0%}; p = {p_value:.3f})"
        ),
        numbers=_defined(candidate=now, other=before, examples=num_examples, p_value=p_value),
    )


def _relative_drop(now: float, before: float, mode: str) -> float:
    """The relative deterioration from `before`, infinite to NaN; 0 if it did not get worse or `before` is 0."""
    if math.isnan(now):
        return math.inf
    loss = before - now if mode == "max" else now - before
    return 0.0 if loss <= 0 or before == 0 else loss / abs(before)


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.5f}"
