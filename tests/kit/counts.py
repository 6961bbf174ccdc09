"""What replicas have counted."""

from __future__ import annotations

from serve.metrics import Definition
from serve.service import Service


def counted(counter: Definition, *services: Service) -> dict[str, float]:
    """The values of a counter with one label or none, of some replicas together, by the label."""
    found: dict[str, float] = {}
    for service in services:
        for labels, number in service.metrics.snapshot()["numbers"].get(counter.name, []):
            label = "".join(labels)
            found[label] = found.get(label, 0) + number
    return found
