"""What a candidate must show before it becomes champion: better, no group much worse, fast and small enough."""

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
"""A slice fails only when its fall is beyond the tolerance and surer than this."""


@dataclass(frozen=True)
class Check:
    """One condition, whether it is met, and the numbers behind it."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, float]


def check_better(
    family: Family, candidate: Scores, other: Scores, *, than: str, p_value: float, num_resamples: int
) -> Check:
    """Whether the candidate's METRIC beats another's on the same examples by more than chance."""
    metric = family.metric.name
    found = compare_scores(family.metric, candidate, other, num_resamples=num_resamples, seed=0)
    value, beaten = candidate.value(family.metric), other.value(family.metric)
    passed = family.metric.better(value, beaten) and found.p_value < p_value
    relation = "is better than" if passed else "is not surely better than"
    return Check(
        name=f"better than {than}",
        passed=passed,
        message=f"{metric} {value:.5f} {relation} {than}'s {beaten:.5f} (p = {found.p_value:.4f}, limit {p_value})",
        numbers={"candidate": value, "other": beaten, "low": found.low, "high": found.high, "p_value": found.p_value},
    )


def check_slices(family: Family, candidate: Scores, champion: Scores) -> list[Check]:
    """For each large enough slice, as the candidate sees them, whether METRIC surely fell beyond the tolerance."""
    checks = []
    for dimension, labels in candidate.slices.items():
        for label in np.unique(labels):
            check = _check_slice(family, candidate, champion, among=labels == label, name=f"{dimension} = {label}")
            if check is not None:
                checks.append(check)
    return checks


def check_size(family: Family, directory: Path) -> Check:
    """Whether the model directory is small enough."""
    size, limit = bundle.size_mb(directory), family.gate.max_size_mb
    return Check("size", size <= limit, f"the model has {size:.1f} MB (limit {limit:g})", {"size_mb": size})


def check_latency(family: Family, model: Model) -> Check:
    """Whether the golden request is answered fast enough, in the median, on one thread."""
    latency, limit = median_latency_ms(family, model), family.gate.max_latency_ms
    message = f"the golden request takes {latency:.2f} ms (limit {limit:g})"
    return Check("latency", latency <= limit, message, {"latency_ms": latency})


def median_latency_ms(family: Family, model: Model) -> float:
    """Median time to answer the golden request, from request to response, on one thread."""
    request = family.golden_request(model.schema)
    answerer = Answerer(family, family.endpoints[0], model.network, model.schema, "candidate")
    timings = []
    with one_thread():
        for _ in range(NUM_WARMUPS + NUM_TIMINGS):
            started = time.perf_counter()
            answerer(request)
            timings.append(time.perf_counter() - started)
    return statistics.median(timings[NUM_WARMUPS:]) * 1000


def _check_slice(family: Family, candidate: Scores, champion: Scores, *, among: Any, name: str) -> Check | None:
    metric, gate = family.metric.name, family.gate
    counted = among if family.metric.compute is not None else among & (candidate.denominators[metric] > 0)
    num_examples = int(counted.sum())
    if num_examples < gate.min_slice_examples:
        return None
    now, before = candidate.value(family.metric, among), champion.value(family.metric, among)
    fall = _relative_fall(now, before, family.metric.mode)
    # A hundred examples fall by a tenth by chance often enough to block every good model; so the fall must be sure.
    chance = 1.0
    if fall:
        resampled = {"among": among, "num_resamples": SLICE_RESAMPLES, "seed": 0}
        chance = compare_scores(family.metric, champion, candidate, **resampled).p_value
    return Check(
        name=f"slice {name}",
        passed=not (fall > gate.slice_tolerance and chance < SLICE_P_VALUE),
        message=(
            f"{metric} where {name} went from {before:.5f} to {now:.5f} on {num_examples} examples "
            f"(a fall of {fall:.1%}, limit {gate.slice_tolerance:.0%}; by chance with p = {chance:.3f})"
        ),
        numbers={"candidate": now, "other": before, "examples": num_examples, "p_value": chance},
    )


def _relative_fall(now: float, before: float, mode: str) -> float:
    """By which share of `before` it became worse; 0 when there was nothing to lose or it did not."""
    loss = before - now if mode == "max" else now - before
    return 0.0 if math.isnan(loss) or loss <= 0 or before == 0 else loss / abs(before)
