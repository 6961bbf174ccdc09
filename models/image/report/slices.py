"""Groups of images that are evaluated one by one: by class, and by how often the class was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.image.data import Batch
from models.image.schema import MISSING, UNKNOWN, Schema

TIERS = ("head", "middle", "tail")


def slices(batch: Batch, schema: Schema) -> Mapping[str, Sequence[str]]:
    """Labels of each example by its class of the first head: which it is, and how often it was trained on."""
    head, names = next(iter(schema.heads.items()))
    tiers = _tiers(schema.label_counts[head])
    labels = batch.labels[:, 0].tolist()
    unnamed = {MISSING: "no label", UNKNOWN: "unknown to the model"}
    return {
        head: [names[label] if label >= 0 else unnamed[label] for label in labels],
        "frequency": [tiers[label] if label >= 0 else unnamed[label] for label in labels],
    }


def _tiers(counts: Sequence[int]) -> list[str]:
    """head: the classes that make up half of the training images, largest first; tail: the last tenth."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    before = np.cumsum(np.asarray(counts)[order]) - np.asarray(counts)[order]
    share = before / max(sum(counts), 1)
    tiers = np.empty(len(counts), dtype=object)
    tiers[order] = np.where(share < 0.5, TIERS[0], np.where(share < 0.9, TIERS[1], TIERS[2]))
    return [str(tier) for tier in tiers]
