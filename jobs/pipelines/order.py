"""The order of the steps of a pipeline: each after those that it needs, otherwise as in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.pipelines.steps import Step
from models.documents import Problems


def in_order(steps: Sequence[Step], problems: Problems) -> tuple[list[Step], Mapping[str, frozenset[str]]]:
    """The steps in the order in which they run, and for each those that run before it; a circle is a problem."""
    direct = {step.id: _before(step, steps[number - 1] if number else None) for number, step in enumerate(steps)}
    ordered: list[Step] = []
    left = list(steps)
    while left:
        done = {step.id for step in ordered}
        ready = next((step for step in left if direct[step.id] <= done), None)
        if ready is None:
            circle = _circle(left[0].id, direct, {step.id for step in left})
            line = next(step.line for step in left if step.id == circle[0])
            problems.add(line, f"steps[{circle[0]}].needs", f"a circle: {' needs '.join([*circle, circle[0]])}")
            return [], {}
        ordered.append(ready)
        left.remove(ready)
    after: dict[str, frozenset[str]] = {}
    for step in ordered:
        above = direct[step.id]
        after[step.id] = frozenset(above).union(*(after[one] for one in above))
    return ordered, after


def _before(step: Step, previous: Step | None) -> set[str]:
    follows = {previous.id} if step.needs is None and previous else set()
    return step.builds_on | follows


def _circle(start: str, direct: Mapping[str, set[str]], left: set[str]) -> list[str]:
    path = [start]
    while True:
        following = next(one for one in sorted(direct[path[-1]]) if one in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)
