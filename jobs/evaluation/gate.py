"""The promotion gate: better than the champion, no worse than the best baseline, overall and by group, fast and small.

The rules that use baselines do not depend on the champion, so the order of promotions cannot change their outcome.
docs/operations.md states the rules.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.evaluation.bootstrap import compare_scores
from jobs.evaluation.scoring import one_thread
from jobs.evaluation.slice_gate import Check, Limits, check_slices, defined, gain_text, relative_drop, relative_gain
from models import bundle
from models.ask import Answerer
from models.evaluate import Model, Scores
from models.family import Family
from models.metric import Metric

NUM_WARMUPS = 5
NUM_TIMINGS = 30


@dataclass(frozen=True)
class References:
    """The scores of what a candidate is compared with, on the same examples."""

    baselines: Mapping[str, Scores] = field(default_factory=dict)
    """In the family's order, of which the first is the trivial one."""
    champion: Scores | None = None
    champion_name: str = "the champion"
    champion_knows_erased: bool = False
    """Whether it was trained with a user who was erased since, so that a model that is no worse replaces it."""

    def best_baseline(self, metric: Metric) -> str | None:
        """The best baseline but the trivial one, a constant prediction, which is perfect on the group it predicts."""
        return metric.best({name: self.baselines[name].value(metric) for name in list(self.baselines)[1:]})

    def floor(self, metric: Metric) -> str | None:
        """What groups are compared with: the best baseline but the trivial one, else the champion, if there is one."""
        return self.best_baseline(metric) or (None if self.champion is None else self.champion_name)


def check_quality(family: Family, candidate: Scores, references: References, limits: Limits) -> list[Check]:
    """Every check of the metric, overall and by group; the candidate's metric must be defined.

    Overall: significantly better than the champion, if there is one, or no worse than one that knows erased users;
    significantly better than the trivial baseline; no worse than the best other baseline, so that this baseline itself
    passes. By group: see check_slices; the floor is
    the best other baseline, or the champion for a family that has none.
    """
    names, champion = list(references.baselines), references.champion
    checks = []
    if champion is not None:
        check = check_no_worse if references.champion_knows_erased else check_better
        checks.append(check(family, candidate, champion, name=references.champion_name, limits=limits))
    if names:
        checks.append(check_better(family, candidate, references.baselines[names[0]], name=names[0], limits=limits))
    floor = references.best_baseline(family.metric)
    if floor is not None:
        best = references.baselines[floor]
        checks.append(check_no_worse(family, candidate, best, name=floor, limits=limits))
        # Groups of the prepared data, not of the candidate, whose data may be older: they are the same for every one.
        grouped = dataclasses.replace(candidate, slices=best.slices)
        return checks + check_slices(family, grouped, best, limits=limits, name=floor, champion=champion)
    if champion is not None:
        checks += check_slices(family, candidate, champion, limits=limits, name=references.champion_name)
    return checks


def check_better(family: Family, candidate: Scores, other: Scores, *, name: str, limits: Limits) -> Check:
    """Whether the candidate's metric is significantly better than another model's on the same examples.

    A defined metric is better than an undefined one, such as the correlation of a constant baseline; an undefined one
    never passes.
    """
    metric = family.metric.name
    value, reference = candidate.value(family.metric), other.value(family.metric)
    if math.isnan(value) or math.isnan(reference):
        return _check_undefined(metric, value, reference, name=name)
    found = compare_scores(family.metric, candidate, other, num_resamples=limits.num_resamples, seed=0)
    passed = family.metric.better(value, reference) and found.p_value < limits.p_value
    relation = "is better than" if passed else "is not significantly better than"
    gain = relative_gain(value, reference, family.metric.mode)
    return Check(
        name=f"better than {name}",
        passed=passed,
        message=(
            f"{metric} {value:.5f} {relation} {name}'s {reference:.5f} "
            f"({gain_text(gain)}p = {found.p_value:.4f}, limit {limits.p_value})"
        ),
        numbers=defined(
            candidate=value, other=reference, gain=gain, low=found.low, high=found.high, p_value=found.p_value
        ),
    )


def check_no_worse(family: Family, candidate: Scores, other: Scores, *, name: str, limits: Limits) -> Check:
    """Whether the candidate's metric is neither significantly worse than another's nor below it by the tolerance.

    The other model itself passes, such as the best baseline. The second condition is for small splits, on which nothing
    is significant: of two models that a split cannot distinguish, the simple one is preferred unless the other scores
    about as much.
    """
    metric, tolerance = family.metric.name, family.gate.baseline_tolerance
    value, reference = candidate.value(family.metric), other.value(family.metric)
    if math.isnan(value) or math.isnan(reference):
        return _check_undefined(metric, value, reference, name=name)
    found = compare_scores(family.metric, other, candidate, num_resamples=limits.num_resamples, seed=0)
    drop = relative_drop(value, reference, family.metric.mode)
    passed = not (drop > 0 and found.p_value < limits.p_value) and drop <= tolerance
    relation = "is no worse than" if passed else "is worse than"
    gain = relative_gain(value, reference, family.metric.mode)
    return Check(
        name=f"no worse than {name}",
        passed=passed,
        message=(
            f"{metric} {value:.5f} {relation} {name}'s {reference:.5f} "
            f"({gain_text(gain)}p = {found.p_value:.4f}, limits {limits.p_value} and -{tolerance:.0%})"
        ),
        numbers=defined(
            candidate=value, other=reference, gain=gain, low=-found.high, high=-found.low, p_value=found.p_value
        ),
    )


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
    return Check(f"better than {name}", passed, message, defined(candidate=value, other=reference))
