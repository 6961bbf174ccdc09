"""The gate's checks by group: no group may fall significantly, and beyond a tolerance, below a floor.

Twenty groups that are tested one by one at 5 % would often refuse a model that is no worse than its floor. So their
p-values are adjusted with the step-down method of Holm (Scandinavian Journal of Statistics, 1979), which limits the
probability of any false refusal to the level, however the groups depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.cli.text_table import aligned
from jobs.evaluation.bootstrap import LEVEL, compare_scores
from models.evaluate import Scores
from models.family import Family

SLICE = "slice "
"""The names of the checks by group start with it."""
ADJUSTED = "adjusted_p_value"
MAX_RESAMPLES = 5000
"""There may be many groups, and few resamples suffice for each."""
FEW_RESAMPLES = 0.005
"""A metric with a `compute` has too few resamples to say how far a p-value is below this."""
Z_LEVEL = 1.959964
"""Half the width of the interval of a comparison at LEVEL, in standard errors."""
assert LEVEL == 0.95


@dataclass(frozen=True)
class Check:
    """One check of the gate: whether it passed, and its numbers."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Limits:
    """The level of the gate's tests and the tolerance of its groups."""

    slice_tolerance: float | None = None
    """None is the family's."""
    p_value: float = 0.05
    num_resamples: int = 10_000

    def tolerance_of(self, family: Family) -> float:
        """The largest share of its floor that the metric of a group may lose."""
        return family.gate.slice_tolerance if self.slice_tolerance is None else self.slice_tolerance


@dataclass(frozen=True)
class _Group:
    """A group of examples with enough of them, before its p-value is adjusted."""

    name: str
    candidate: float
    floor: float
    champion: float
    num_examples: int
    share: float
    drop: float
    among: NDArray[np.bool_]
    """Which examples [N] are in it."""


def check_slices(
    family: Family,
    candidate: Scores,
    floor: Scores,
    *,
    limits: Limits,
    name: str = "the champion",
    champion: Scores | None = None,
) -> list[Check]:
    """For each large enough group, whether the metric is significantly below the floor and beyond the tolerance.

    `floor` are the scores of `name` on the same examples. A `champion` that is not the floor is reported, not tested.
    """
    groups = []
    for dimension, labels in candidate.slices.items():
        for label in sorted(np.unique(labels).tolist(), key=family.slice_rank):
            group = _group(family, candidate, floor, champion, among=labels == label, name=f"{dimension} = {label}")
            if group is not None:
                groups.append(group)
    p_values = [_p_value(family, candidate, floor, group, limits) for group in groups]
    adjusted = holm(p_values)
    return [
        _check(family, group, (p_values[place], adjusted[place]), floor=name, num_groups=len(groups), limits=limits)
        for place, group in enumerate(groups)
    ]


def slice_numbers(checks: Sequence[Check]) -> dict[str, dict[str, float]]:
    """Group -> its numbers, and `passed`, of the checks by group."""
    groups = [check for check in checks if check.name.startswith(SLICE)]
    return {check.name.removeprefix(SLICE): {"passed": check.passed, **check.numbers} for check in groups}


def slice_table(checks: Sequence[Check], *, floor: str | None) -> list[str]:
    """The checks by group as lines of a table for people; empty if there are none."""
    rows = [["group", "examples", "share", floor or "floor", "champion", "candidate", "gain", "p", "adjusted p", ""]]
    for name, numbers in slice_numbers(checks).items():
        scores = [_cell(numbers, each, ".4f") for each in ("floor", "champion", "candidate")]
        tested = [_cell(numbers, "gain", "+.1%"), *(_cell(numbers, each, ".3f") for each in ("p_value", ADJUSTED))]
        head = [name, _cell(numbers, "examples", ",.0f"), _cell(numbers, "share", ".0%")]
        rows.append([*head, *scores, *tested, "" if numbers["passed"] else "failed"])
    return aligned(rows, to_the_right=True) if len(rows) > 1 else []


def _cell(numbers: Mapping[str, float], name: str, style: str) -> str:
    return format(numbers[name], style) if name in numbers else "-"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number: with at most that probability is any of them below a level by chance."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def relative_drop(now: float, before: float, mode: str) -> float:
    """The relative deterioration from `before`, infinite to NaN; 0 if it did not get worse or `before` is 0."""
    gain = relative_gain(now, before, mode)
    return math.inf if math.isnan(now) else -gain if gain < 0 else 0.0


def relative_gain(now: float, before: float, mode: str) -> float:
    """The relative improvement on `before`, negative for a deterioration; NaN if it is undefined."""
    return (now - before if mode == "max" else before - now) / abs(before) if before else math.nan


def gain_text(gain: float) -> str:
    """The gain for a message, with a comma; empty if it is undefined."""
    return "" if math.isnan(gain) else f"gain {gain:+.1%}, "


def defined(**numbers: float) -> dict[str, float]:
    """The numbers without NaN and infinity, which JSON does not have."""
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _group(
    family: Family, candidate: Scores, floor: Scores, champion: Scores | None, *, among: NDArray[np.bool_], name: str
) -> _Group | None:
    """The group `among` the examples; None if too few count, or none counts for the floor."""
    metric = family.metric
    num_examples = candidate.num_counted(metric, among)
    now, before = candidate.value(metric, among), floor.value(metric, among)
    if num_examples < family.gate.min_slice_examples or math.isnan(before):
        return None
    return _Group(
        name=name,
        candidate=now,
        floor=before,
        champion=math.nan if champion is None else champion.value(metric, among),
        num_examples=num_examples,
        share=num_examples / max(1, candidate.num_counted(metric)),
        drop=relative_drop(now, before, metric.mode),
        among=among,
    )


def _p_value(family: Family, candidate: Scores, floor: Scores, group: _Group, limits: Limits) -> float:
    """One-sided: how likely a drop this large is by chance; 1 without a drop.

    The larger of the bootstrap's and that of a normal distribution with its standard error: each alone refuses slightly
    too often where most examples gain nothing.
    """
    if not group.drop:
        return 1.0
    num_resamples = min(limits.num_resamples, MAX_RESAMPLES)
    found = compare_scores(family.metric, floor, candidate, among=group.among, num_resamples=num_resamples, seed=0)
    width = found.high - found.low
    if not width > 0:
        return found.p_value
    errors = abs(found.difference) / (width / 2 / Z_LEVEL)
    normal = math.erfc(errors / math.sqrt(2)) / 2
    is_coarse = family.metric.compute is not None and found.p_value < FEW_RESAMPLES
    return normal if is_coarse else max(normal, found.p_value)


def _check(
    family: Family, group: _Group, p_values: tuple[float, float], *, floor: str, num_groups: int, limits: Limits
) -> Check:
    """The check of a group; `p_values` are before and after the adjustment for the number of groups."""
    tolerance = limits.tolerance_of(family)
    gain = relative_gain(group.candidate, group.floor, family.metric.mode)
    champion = "" if math.isnan(group.champion) else f" and {group.champion:.5f} of the champion"
    now = "undefined" if math.isnan(group.candidate) else f"{group.candidate:.5f}"
    p_value, adjusted = p_values
    return Check(
        name=f"{SLICE}{group.name}",
        passed=not (group.drop > tolerance and adjusted < limits.p_value),
        message=(
            f"{family.metric.name} where {group.name} is {now} against {group.floor:.5f} of {floor}{champion}, on "
            f"{group.num_examples} examples, {group.share:.0%} of all ({gain_text(gain)}p = {p_value:.3f}, "
            f"{adjusted:.3f} adjusted for {num_groups} groups; limits -{tolerance:.0%} and {limits.p_value})"
        ),
        numbers=defined(
            candidate=group.candidate,
            floor=group.floor,
            champion=group.champion,
            examples=group.num_examples,
            share=group.share,
            gain=gain,
            p_value=p_value,
            adjusted_p_value=adjusted,
        ),
    )
