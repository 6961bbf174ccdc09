"""Slices of the examples for evaluation: by length of the history, popularity, age and event type of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.recommender.data import Histories, Rows
from models.recommender.schema import Schema

HISTORY = {0: "0 events", 4: "1-4", 9: "5-9", 19: "10-19", 49: "20-49", 99: "50-99"}
"""Largest length of a history -> its label."""
LONGEST = "100 or more"
ORDER = (
    *HISTORY.values(),
    LONGEST,
    *("head", "middle", "tail", "never trained on", "unknown to the model"),
    *("new", "young", "medium", "old"),
)
"""The labels in the order of a report."""


def slices(batch: Rows | Histories, schema: Schema) -> Mapping[str, Sequence[str]]:
    """Labels of each example: length of its history; popularity, age and type of its target, if there are several."""
    assert isinstance(batch, Histories), "slices are of held-out histories"
    counts = np.concatenate([[0], np.asarray(schema.item_counts)])
    first_seen = np.concatenate([[0], np.asarray(schema.item_first_seen)])
    targets = batch.targets.cpu().numpy()
    labels = {
        "history": [_history_label(length) for length in batch.lengths.tolist()],
        "popularity": _popularity_labels(counts, targets),
        "item_age": _age_labels(first_seen, counts, targets, schema),
    }
    types = [example.target_type for example in batch.examples]
    return {**labels, "event_type": types} if any(types) else labels


def _history_label(length: int) -> str:
    return next((label for limit, label in HISTORY.items() if length <= limit), LONGEST)


def _popularity_labels(counts: NDArray[Any], targets: NDArray[Any]) -> list[str]:
    """head: the most popular items that make up half of all training events; tail: the rarest that make up a tenth."""
    order = np.argsort(-counts, kind="stable")
    share = np.cumsum(counts[order]) / max(int(counts.sum()), 1)
    group = np.empty(len(counts), dtype=object)
    group[order] = np.where(share <= 0.5, "head", np.where(share <= 0.9, "middle", "tail"))
    group[counts == 0] = "never trained on"
    return [str(group[target]) if target > 0 else "unknown to the model" for target in targets]


def _age_labels(first_seen: NDArray[Any], counts: NDArray[Any], targets: NDArray[Any], schema: Schema) -> list[str]:
    """Age of the target at the end of the training split, in thirds of the period that the split covers."""
    trained = counts > 0
    oldest = int(first_seen[trained].min()) if trained.any() else 0
    span = max(schema.train_until - oldest, 1)
    labels = []
    for target in targets:
        if target <= 0 or not trained[target]:
            labels.append("new")
        else:
            age = (schema.train_until - first_seen[target]) / span
            labels.append("young" if age < 1 / 3 else "medium" if age < 2 / 3 else "old")
    return labels
