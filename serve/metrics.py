"""What a replica counts of its work: the definitions of all metrics, and the counts, without Ray or Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Labels = tuple[str, ...]
"""The values of a definition's labels, in their order."""


@dataclass(frozen=True)
class Definition:
    """A metric; its labels never hold ids, of which there would be too many and which are personal data."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    """After `family`, which every metric has."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

REQUESTS = Definition("shopkeeper_requests_total", "counter", "HTTP requests.", ("method", "route", "code"))
REQUEST_SECONDS = Definition(
    "shopkeeper_request_seconds", "histogram", "Time to answer an HTTP request.", ("method", "route", "code"), SECONDS
)
CONNECTIONS = Definition("shopkeeper_connections_total", "counter", "WebSockets, by outcome.", ("route", "outcome"))
OPEN_CONNECTIONS = Definition("shopkeeper_open_connections", "gauge", "WebSockets that are open now.")
REFUSED = Definition(
    "shopkeeper_refused_total", "counter", "Requests refused for their API key, by reason.", ("reason",)
)
ANSWERS = Definition(
    "shopkeeper_answers_total", "counter", "Answers by what they rest on, such as popular.", ("path", "source")
)
EMPTY_ANSWERS = Definition("shopkeeper_empty_answers_total", "counter", "Answers with an empty list.", ("path",))
PREDICTIONS = Definition("shopkeeper_predictions_total", "counter", "Predictions made.", ("path", "model_version"))
BATCH_SIZE = Definition(
    "shopkeeper_batch_size", "histogram", "Examples in a batch.", ("path",), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
)
EVENTS = Definition("shopkeeper_events_total", "counter", "Events received, by outcome.", ("outcome",))
EVENT_STORE_ERRORS = Definition("shopkeeper_event_store_errors_total", "counter", "Failures of the event store.")
FEATURE_STORE_ERRORS = Definition(
    "shopkeeper_feature_store_errors_total", "counter", "Requests whose features could not be read or written."
)
RELOADS = Definition("shopkeeper_model_reloads_total", "counter", "Models loaded or rejected.", ("outcome",))
MODEL_INFO = Definition(
    "shopkeeper_model_info",
    "gauge",
    "Replicas that serve a model version; labels say which.",
    ("model_version", "network"),
)
MODEL_LOADED = Definition(
    "shopkeeper_model_loaded_timestamp_seconds", "gauge", "When replicas last loaded a model, the latest.", ()
)
REPLICAS = Definition("shopkeeper_replicas", "gauge", "Replicas that counted within the last half minute.")
LOG_DROPPED = Definition("shopkeeper_request_log_dropped_total", "counter", "Lines lost from the request log.")

DEFINITIONS: dict[str, Definition] = {
    each.name: each
    for each in (
        REQUESTS,
        REQUEST_SECONDS,
        CONNECTIONS,
        OPEN_CONNECTIONS,
        REFUSED,
        ANSWERS,
        EMPTY_ANSWERS,
        PREDICTIONS,
        BATCH_SIZE,
        EVENTS,
        EVENT_STORE_ERRORS,
        FEATURE_STORE_ERRORS,
        RELOADS,
        MODEL_INFO,
        MODEL_LOADED,
        REPLICAS,
        LOG_DROPPED,
    )
}
MAXIMUM = {MODEL_LOADED.name}
"""Gauges of which several replicas have the largest value, instead of the sum."""


class Metrics:
    """The counts of one replica; every part of the service adds to them, from any thread.

    `metrics.count(EVENTS, "accepted", by=3)`: a definition of this module, then the values of its labels.
    """

    def __init__(self, family_name: str) -> None:
        self.family_name = family_name
        # A dictionary for each definition: the key is then only the labels, which saves a tuple in each request.
        self._numbers: dict[str, dict[Labels, float]] = {name: {} for name in DEFINITIONS}
        self._buckets: dict[str, dict[Labels, list[float]]] = {
            name: {} for name, each in DEFINITIONS.items() if each.kind == "histogram"
        }

    def count(self, counter: Definition, *labels: str, by: float = 1) -> None:
        """Add to a counter, or to a gauge that goes up and down."""
        numbers = self._numbers[counter.name]
        # Not atomic between threads: a lost count in a million is not worth a lock in each request.
        numbers[labels] = numbers.get(labels, 0) + by

    def set(self, gauge: Definition, *labels: str, value: float) -> None:
        """Set a gauge."""
        self._numbers[gauge.name][labels] = value

    def clear(self, gauge: Definition) -> None:
        """Forget the values of a gauge for all labels, such as the model that was replaced."""
        self._numbers[gauge.name].clear()

    def observe(self, histogram: Definition, *labels: str, value: float) -> None:
        """Add a value to a histogram: one number for each bucket, then the number of larger values and the sum."""
        buckets = self._buckets[histogram.name].get(labels)
        if buckets is None:
            buckets = self._buckets[histogram.name][labels] = [0.0] * (len(histogram.bounds) + 2)
        buckets[bisect_left(histogram.bounds, value)] += 1
        buckets[-1] += value

    def observe_batch(self, path: str, model_version: str, batch_size: int) -> None:
        """Count a batch; see `serve.loaded_model.Observer`."""
        self.count(PREDICTIONS, path, model_version, by=batch_size)
        self.observe(BATCH_SIZE, path, value=batch_size)

    def snapshot(self) -> dict[str, Any]:
        """All counts as JSON: {"family": name, "numbers": {metric: [[labels, number]]}, "buckets": ...}."""
        return {
            "family": self.family_name,
            "numbers": _pairs(self._numbers),
            "buckets": _pairs(self._buckets),
        }


def _pairs(counts: Mapping[str, Mapping[Labels, Any]]) -> dict[str, list[list[Any]]]:
    # `list` of a dictionary is atomic; other threads may add to it meanwhile.
    return {
        name: [[list(labels), value] for labels, value in list(by_labels.items())]
        for name, by_labels in counts.items()
        if by_labels
    }
