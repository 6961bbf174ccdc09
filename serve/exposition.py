"""The page that Prometheus reads: the counts of all replicas added up, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from serve.metrics import DEFINITIONS, MAXIMUM, Definition, Labels

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Snapshot = Mapping[str, Any]
"""What `Metrics.snapshot` returns, also of a release with other metrics."""


def page(live: Iterable[Snapshot], ended: Iterable[Snapshot] = ()) -> str:
    """The metrics of replicas that are alive, and the counters of those that have ended: a counter must not go down."""
    alive, gone = list(live), list(ended)
    lines: list[str] = []
    for definition in DEFINITIONS.values():
        counted = alive if definition.kind == "gauge" else [*alive, *gone]
        lines += _lines(definition, counted)
    return "".join(f"{line}\n" for line in lines)


def _lines(definition: Definition, snapshots: Iterable[Snapshot]) -> Iterator[str]:
    part = "buckets" if definition.kind == "histogram" else "numbers"
    merged: dict[Labels, Any] = {}
    for snapshot in snapshots:
        for labels, value in snapshot[part].get(definition.name, ()):
            key = (snapshot["family"], *labels)
            if len(key) == len(definition.labels) + 1:
                merged[key] = _merged(definition, merged[key], value) if key in merged else value
    if not merged:
        return
    yield f"# HELP {definition.name} {definition.help}"
    yield f"# TYPE {definition.name} {definition.kind}"
    for key, value in sorted(merged.items()):
        labels = dict(zip(("family", *definition.labels), key, strict=True))
        if definition.kind == "histogram":
            yield from _histogram(definition, labels, value)
        else:
            yield f"{definition.name}{_braces(labels)} {_number(value)}"


def _merged(definition: Definition, one: Any, other: Any) -> Any:
    if definition.kind == "histogram":
        return [first + second for first, second in zip(one, other, strict=True)] if len(one) == len(other) else one
    return max(one, other) if definition.name in MAXIMUM else one + other


def _histogram(definition: Definition, labels: Mapping[str, str], value: list[float]) -> Iterator[str]:
    *counts, total = value
    bounds = [*map(_number, definition.bounds), "+Inf"]
    for bound, count in zip(bounds, accumulate(counts), strict=True):
        yield f"{definition.name}_bucket{_braces({**labels, 'le': bound})} {_number(count)}"
    yield f"{definition.name}_sum{_braces(labels)} {_number(total)}"
    yield f"{definition.name}_count{_braces(labels)} {_number(sum(counts))}"


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value.translate(ESCAPES)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
