"""The slices of an evaluation: by class, and by frequency of the class in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.image.data import Batch
from models.image.schema import MISSING, UNKNOWN, Schema

TIERS = ("head", "middle", "tail")
UNNAMED = {MISSING: "no label", UNKNOWN: "unknown to the model"}
ORDER = (*TIERS, *UNNAMED.values())
"""The labels that come after the classes in a report, in this order."""


def slices(batch: Batch, schema: Schema) -> Mapping[str, Sequence[str]]:
    """The class of each example's first head, and whether the class is frequent in training."""
    head, names = next(iter(schema.heads.items()))
    tiers = _tiers(schema.label_counts[head])
    labels = batch.labels[:, 0].tolist()
    return {
        head: [names[label] if label >= 0 else UNNAMED[label] for label in labels],
        "frequency": [tiers[label] if label >= 0 else UNNAMED[label] for label in labels],
    }


def _tiers(counts: Sequence[int]) -> list[str]:
    """head: the most frequent classes, with half of the training images; tail: the rarest, with the last tenth."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    before = np.cumsum(np.asarray(counts)[order]) - np.asarray(counts)[order]
    share = before / max(sum(counts), 1)
    tiers = np.empty(len(counts), dtype=object)
    tiers[order] = np.where(share < 0.5, TIERS[0], np.where(share < 0.9, TIERS[1], TIERS[2]))
    return [str(tier) for tier in tiers]
